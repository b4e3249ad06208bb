"""Embedding: losses and training are those of sentence-transformers, ties never help, and bad data is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from adapterzoo_plugins.tasks._embedding_losses import EmbeddingOptions, batch_loss, losses_of_rows
from adapterzoo_plugins.tasks._pooling import Pooling, pooled
from adapterzoo_plugins.tasks._retrieval import ranked
from cells import Bench
from click.testing import Result
from task_runs import WORDS, assert_refused, results, write_recipe


def pairs(count: int = 40) -> list[dict[str, Any]]:
    return [{"anchor": f"What is {WORDS[n % 10]} {n}?", "positive": f"{WORDS[n % 10]} is {n}"} for n in range(count)]


def triplets(count: int = 40) -> list[dict[str, Any]]:
    return [{**row, "negative": f"{WORDS[n % 7]} was {n}"} for n, row in enumerate(pairs(count))]


def scored(count: int = 40) -> list[dict[str, Any]]:
    return [
        {"sentence1": f"one {WORDS[n % 10]} {n}", "sentence2": f"a {WORDS[n % 3]} {n}", "score": round(n % 4 * 0.3, 1)}
        for n in range(count)
    ]


CASES = [
    (pairs, "multiple_negatives"),
    (triplets, "multiple_negatives"),
    (triplets, "triplet"),
    (scored, "cosent"),
    (scored, "cosine"),
]


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(
        rows: list[dict[str, Any]], task: str = "embedding", methods: str = "lora", steps: int = 6, train: str = "",
        model: Path = tiny_model, evaluate: str = "",
    ) -> Path:  # fmt: skip
        return write_recipe(tmp_path, model, rows, task, methods, steps, 48, train, evaluate)

    return write


def library_model(model: Path, pooling: str) -> Any:
    """Return a model of the library that reads texts as they are; by itself it would use a chat template."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(
        str(model), max_seq_length=48, model_kwargs={"attn_implementation": "eager"},
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        module_output_name="token_embeddings",
    )  # fmt: skip
    return SentenceTransformer(modules=[transformer, Pooling(64, pooling)], device="cpu")


def library_loss(name: str, model: Any) -> Any:
    from sentence_transformers.sentence_transformer import losses

    classes = {
        "multiple_negatives": losses.MultipleNegativesRankingLoss,
        "triplet": losses.TripletLoss,
        "cosent": losses.CoSENTLoss,
        "cosine": losses.CosineSimilarityLoss,
    }
    return classes[name](model)


def test_embeddings_are_learned(recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    path = recipe(pairs(), steps=30, train=", learning_rate: 1e-2")
    done = adapterzoo("run", path, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    found = {label: row["metrics"] for label, row in results(tmp_path / "o", adapterzoo).items()}
    assert found.keys() == {"base", "lora"}
    assert list(found["lora"]) == ["retrieval_hit", "ndcg", "test_loss"]
    assert found["lora"]["ndcg"] > found["base"]["ndcg"]
    assert found["lora"]["test_loss"] < found["base"]["test_loss"]
    folder = tmp_path / "o" / "lora" / "seed-0"
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert all(record["retrieval_hit"] == (record["prediction"] == record["reference"]) for record in records)
    packages = json.loads((folder / "result.json").read_text())["environment"]["packages"]
    assert packages["sentence-transformers"] == metadata.version("sentence-transformers")


def test_scores_are_learned_by_an_encoder_without_a_pooler(
    recipe: Callable[..., Path], tmp_path: Path, tiny_bert: Path
) -> None:
    from adapterzoo.model import base

    bench = Bench(recipe(scored(), steps=20, train=", learning_rate: 1e-2, eval_steps: 10", model=tiny_bert))
    encoded, settings = bench.prepared.encoded, bench.prepared.recipe.evaluate
    loaded = base.load(bench.recipe.model, bench.prepared.location, "none", 48, encoded.form)
    with bench.wrapped("lora", loaded) as model:
        assert not any("pooler" in name for name, _ in model.named_modules())
        before = encoded.evaluate(model, settings)
        trained = bench.train("lora", model, tmp_path)
        after = encoded.evaluate(model, settings)
        validation = encoded.evaluate(model, settings, split="validation")
    assert list(after.metrics) == ["spearman", "test_loss"]
    assert after.metrics["test_loss"] < before.metrics["test_loss"]
    assert trained.history[-1]["eval_loss"] == pytest.approx(validation.metrics["test_loss"])
    losses = [prediction.likelihood.loss for prediction in after.predictions if prediction.likelihood]
    assert sum(losses) / len(losses) == pytest.approx(after.metrics["test_loss"])


@pytest.mark.parametrize(("rows", "loss"), CASES, ids=[f"{rows.__name__}-{loss}" for rows, loss in CASES])
def test_losses_and_gradients_are_those_of_the_library(
    rows: Callable[[int], list[dict[str, Any]]], loss: str, recipe: Callable[..., Path], tiny_model: Path,
    tiny_bert: Path,
) -> None:  # fmt: skip
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    folder = tiny_bert if loss == "triplet" else tiny_model
    data = rows(12)
    encoded = Bench(recipe(data, f"{{name: embedding, loss: {loss}, pooling: mean}}", model=folder)).prepared.encoded
    theirs = library_model(folder, "mean")
    config = LoraConfig(task_type="FEATURE_EXTRACTION", r=4, lora_alpha=32, target_modules="all-linear")
    theirs[0].model = get_peft_model(theirs[0].model, config)
    names = [name for name in data[0] if name != "score"]
    chosen = [example.row.place for example in encoded.train]
    used = [row for number, row in enumerate(data, start=1) if any(p.endswith(f":{number}") for p in chosen)]
    used.sort(key=lambda row: chosen.index(next(p for p in chosen if p.endswith(f":{data.index(row) + 1}"))))
    features = [theirs.tokenize([row[name] for row in used]) for name in names]
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    wanted = library_loss(loss, theirs)(features, torch.tensor([row.get("score", 0.0) for row in used]))
    wanted.backward()

    plain = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    model = get_peft_model(plain, config)
    model.load_state_dict(theirs[0].model.state_dict())
    given = encoded.loss(model, encoded.arguments(encoded.collate(encoded.train), model))
    given.backward()
    assert given.item() == pytest.approx(wanted.item(), abs=1e-5)
    gradients = {name: p.grad for name, p in theirs[0].model.named_parameters() if p.grad is not None}
    assert gradients
    for name, parameter in model.named_parameters():
        if name in gradients:
            # Sums of numbers around 20 are rounded in the sixth digit, on some processors otherwise than on others.
            rounding = max(1e-5, 2e-6 * float(gradients[name].abs().max()))
            assert torch.allclose(parameter.grad, gradients[name], atol=rounding), name


def test_training_is_that_of_the_library(recipe: Callable[..., Path], tmp_path: Path, tiny_model: Path) -> None:
    from datasets import Dataset
    from peft import LoraConfig, PeftModel, get_peft_model
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    from adapterzoo.model import base
    from adapterzoo.running.cell import adapt
    from adapterzoo.running.watch import Watch

    path = recipe(pairs(), "{name: embedding, pooling: mean}", steps=4)
    path.write_text(path.read_text().replace("batch_size: 4", "batch_size: 24, learning_rate: 1e-3"), encoding="utf-8")
    bench = Bench(path)
    prepared, method = bench.prepared, bench.method("lora")[0]
    loaded = base.load(bench.recipe.model, prepared.location, "none", 48, prepared.encoded.form)
    with loaded.borrow() as model:
        adapted = adapt(prepared, bench.cells["lora"], model, Watch()).model
        start = {name: value.clone() for name, value in adapted.state_dict().items()}
        trained = bench.train("lora", adapted, tmp_path / "ours")
        ours = {name: value.clone() for name, value in adapted.state_dict().items()}
        method.save(adapted, tmp_path / "adapter")
        measured = prepared.encoded.evaluate(adapted, bench.recipe.evaluate)

    theirs = library_model(tiny_model, "mean")
    settings = LoraConfig(task_type="FEATURE_EXTRACTION", r=8, lora_alpha=32, target_modules="all-linear")
    theirs[0].model = get_peft_model(theirs[0].model, settings)
    theirs[0].model.load_state_dict(start)
    rows = [{"anchor": e.row.prompt, "positive": e.row.completion} for e in prepared.encoded.train]
    train = bench.recipe.train
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "theirs"), max_steps=4, per_device_train_batch_size=24, learning_rate=1e-3,
        lr_scheduler_type=train.scheduler, warmup_steps=1, weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm, logging_steps=1, report_to=[], use_cpu=True, save_strategy="no",
        optim=train.optimizer, disable_tqdm=True,
    )  # fmt: skip
    loss = library_loss("multiple_negatives", theirs)
    trainer = SentenceTransformerTrainer(theirs, arguments, train_dataset=Dataset.from_list(rows), loss=loss)
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in trained.history] == pytest.approx(logged, abs=1e-4), "it logs four digits"
    adapters = {name: value for name, value in theirs[0].model.state_dict().items() if "lora_" in name}
    assert all(torch.allclose(ours[name], value, atol=1e-5) for name, value in adapters.items())
    assert not all(torch.allclose(ours[name], start[name], atol=1e-4) for name in adapters)

    read = library_model(tiny_model, "mean")
    read[0].model = PeftModel.from_pretrained(read[0].model, str(tmp_path / "adapter"))
    texts = [(e.row.prompt, e.row.completion) for e in prepared.encoded.test]
    queries, found = (torch.tensor(read.encode(list(column))) for column in zip(*texts, strict=True))
    wanted = library_loss("multiple_negatives", None).compute_loss_from_embeddings([queries, found], None)
    assert measured.metrics["test_loss"] == pytest.approx(wanted.item(), abs=1e-5)


@pytest.mark.parametrize(("loss", "columns"), [("multiple_negatives", 2), ("multiple_negatives", 3), ("triplet", 3),
                                               ("cosent", 2), ("cosine", 2)])  # fmt: skip
@pytest.mark.parametrize("count", [3, 300])
def test_the_mean_loss_of_rows_is_the_loss_of_the_split(loss: Any, columns: int, count: int) -> None:
    torch.manual_seed(count)
    embeddings = [torch.randn(count, 8, dtype=torch.float64) for _ in range(columns)]
    scores = torch.randint(0, 3, (count,)).double() / 2
    options = EmbeddingOptions(scale=7.0)
    wanted = batch_loss(loss, options, embeddings, scores)
    given = losses_of_rows(loss, options, embeddings, scores)
    assert given.shape == (count,)
    assert given.mean().item() == pytest.approx(wanted.item(), abs=1e-5)


def test_parts_of_cosent_are_its_rise_with_the_weight_of_a_row() -> None:
    torch.manual_seed(0)
    count, options = 30, EmbeddingOptions()
    embeddings, scores = [torch.randn(count, 8).double() for _ in range(2)], torch.arange(count).double() % 5
    parts = losses_of_rows("cosent", options, embeddings, scores)
    scaled = 20 * torch.cosine_similarity(*embeddings)
    weights = torch.ones(count, dtype=torch.float64, requires_grad=True)
    higher = scores[:, None] > scores[None, :]
    both = (weights[:, None] * weights[None, :] * (scaled[None, :] - scaled[:, None]).exp())[higher].sum()
    (rises,) = torch.autograd.grad((1 + both).log(), weights)
    # Weights whose mean stays 1 change the loss as the differences of the parts say.
    assert torch.allclose(parts - parts.mean(), count * (rises - rises.mean()), atol=1e-8)


def test_ranking_is_that_of_the_library() -> None:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    torch.manual_seed(0)
    rows = [(f"q{n // 2}", f"p{n % 23}", f"n{n}") for n in range(60)]
    texts = sorted({text for row in rows for text in row})
    unit = {text: torch.nn.functional.normalize(torch.randn(4).double(), dim=0) for text in texts}
    relevant: dict[str, set[str]] = {}
    for query, positive, _ in rows:
        relevant.setdefault(query, set()).add(positive)
    found = [text for text in texts if not text.startswith("q")]
    evaluator = InformationRetrievalEvaluator(
        {query: query for query in relevant}, {text: text for text in found}, relevant, ndcg_at_k=[10],
        accuracy_at_k=[1], score_functions={"cosine": lambda queries, texts: queries @ texts.T},
    )  # fmt: skip
    evaluator.embed_inputs = lambda _, sentences, **__: torch.stack([unit[text] for text in sentences])
    wanted = evaluator.compute_all_metrics(None)["cosine"]
    searches = dict(zip((row[0] for row in rows), ranked(rows, unit), strict=True)).values()
    assert sum(s.hit for s in searches) / len(searches) == pytest.approx(wanted["accuracy@k"][1])
    assert 0 < sum(s.ndcg for s in searches) / len(searches) == pytest.approx(wanted["ndcg@k"][10])


def test_ties_and_the_query_itself_do_not_help() -> None:
    rows = [("a", "b"), ("b", "c"), ("d", "e")]
    same = dict.fromkeys("abcde", torch.ones(1).double())
    assert [search.hit for search in ranked(rows, same)] == [False] * 3
    assert all(search.ndcg < 0.7 for search in ranked(rows, same))
    turned = {name: torch.tensor([1.0, 0.1 * place]).double() for place, name in enumerate("bcdae")}
    unit = {name: vector / vector.norm() for name, vector in turned.items()}
    assert ranked(rows, unit)[1] == ("c", True, 1.0), "b is the nearest to b, but it is what is searched for"


def test_tokens_in_front_of_a_text_are_not_pooled() -> None:
    hidden, mask = torch.randn(2, 9, 4), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    for mode in ("mean", "cls", "lasttoken"):
        pooling = Pooling(mode, False, "a test")
        assert torch.equal(pooled(hidden, mask, pooling), pooled(hidden[:, 5:], mask, pooling))
    assert torch.equal(pooled(hidden, mask, pooling)[1], hidden[1, 6])
    lengths = pooled(hidden, mask, pooling._replace(normalizes=True)).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(2)), "a model's own layer Normalize matters to the loss triplet"


def test_equal_texts_have_equal_cosines(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    same = [{**row, "sentence2": row["sentence1"]} for row in scored()]
    assert adapterzoo("run", recipe(same, steps=1), "--out", tmp_path / "o").exit_code == 0
    assert {row["metrics"]["spearman"] for row in results(tmp_path / "o", adapterzoo).values()} == {0.0}


def test_no_step_learns_from_one_row(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """There are 21 training rows and four in a batch, so the last batch would have a single row."""
    from adapterzoo.model import base

    bench = Bench(recipe(pairs(35), steps=6))
    assert len(bench.prepared.encoded.train) == 21
    loaded = base.load(bench.recipe.model, bench.prepared.location, "none", 48, bench.prepared.encoded.form)
    with bench.wrapped("lora", loaded) as model:
        trained = bench.train("lora", model, tmp_path / "checkpoints")
    assert all(entry["loss"] > 0 for entry in trained.history)


def test_pooling_is_that_of_the_model(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path, tiny_model: Path, tiny_bert: Path
) -> None:
    causal = adapterzoo("preview", recipe(pairs())).output
    assert "pooling lasttoken" in causal
    assert causal.count("<|end|>") >= 2, "the end token of each text"
    assert "pooling mean (the model is an encoder)" in adapterzoo("preview", recipe(pairs(), model=tiny_bert)).output
    own = library_model(tiny_model, "weightedmean")
    own.save(str(tmp_path / "own"))
    shown = adapterzoo("preview", recipe(pairs(), model=tmp_path / "own")).output
    assert "pooling weightedmean (from the model's own files)" in shown
    modules = tmp_path / "own" / "modules.json"
    written = json.loads(modules.read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.base.modules.dense.Dense"}
    modules.write_text(json.dumps([*written, dense]), encoding="utf-8")
    assert_refused(adapterzoo, recipe(pairs(), model=tmp_path / "own"), "layer of type Dense")
    modules.write_text("[", encoding="utf-8")
    assert_refused(adapterzoo, recipe(pairs(), model=tmp_path / "own"), "modules.json: cannot be read")
    modules.write_text("[1]", encoding="utf-8")
    assert_refused(adapterzoo, recipe(pairs(), model=tmp_path / "own"), "modules.json: is no list of modules")
    modules.write_text(json.dumps(written), encoding="utf-8")
    prompts = {"prompts": {"query": "Find: "}, "default_prompt_name": "query"}
    (tmp_path / "own" / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    assert_refused(adapterzoo, recipe(pairs(), model=tmp_path / "own"), "with 'Find: ' in front")
    (tmp_path / "own" / "sentence_bert_config.json").write_text('{"modality_config": {"message": {}}}')
    assert_refused(adapterzoo, recipe(pairs(), model=tmp_path / "own"), "reads texts in its chat template")
    (tmp_path / "own" / "config_sentence_transformers.json").unlink()
    for settings, wanted in (
        ({"do_lower_case": True}, "the model reads texts in lower case"),
        ({"max_seq_length": 5}, "it reads 5 tokens of a text, and max_length is 48"),
    ):
        (tmp_path / "own" / "sentence_bert_config.json").write_text(json.dumps(settings))
        assert_refused(adapterzoo, recipe(pairs(), model=tmp_path / "own"), wanted)
    path = recipe(pairs(), "{name: embedding, pooling: cls}", model=tmp_path / "own")
    assert "pooling cls (from the recipe)" in adapterzoo("preview", path).output


def test_a_changed_pooling_is_another_model(tmp_path: Path, tiny_model: Path) -> None:
    from adapterzoo.model.files import fingerprint

    library_model(tiny_model, "mean").save(str(tmp_path))
    before = fingerprint(str(tmp_path), None)
    path = tmp_path / "1_Pooling" / "config.json"
    path.write_text(path.read_text().replace('"mean"', '"cls"'), encoding="utf-8")
    assert fingerprint(str(tmp_path), None) != before


def test_methods_that_put_tokens_in_front_are_trained(recipe: Callable[..., Path], tmp_path: Path) -> None:
    from adapterzoo.model import base

    methods = ("prompt-tuning", "p-tuning", "prefix-tuning")
    bench = Bench(recipe(pairs(), methods=", ".join(methods), train=", learning_rate: 1e-2"))
    encoded, settings = bench.prepared.encoded, bench.prepared.recipe.evaluate
    loaded = base.load(bench.recipe.model, bench.prepared.location, "none", 48, encoded.form)
    for label in methods:
        with bench.wrapped(label, loaded) as model:
            before = encoded.evaluate(model, settings).metrics["test_loss"]
            bench.train(label, model, tmp_path / label)
            assert encoded.evaluate(model, settings).metrics["test_loss"] < before


def test_regulariser_of_a_method_is_in_the_loss(recipe: Callable[..., Path]) -> None:
    from adapterzoo.model import base
    from adapterzoo.running.cell import adapt
    from adapterzoo.running.watch import Watch

    methods = ", ".join(f"{{name: adalora, label: reg-{n}, orth_reg_weight: 0.{n}}}" for n in (0, 9))
    bench = Bench(recipe(pairs(20), methods=methods))
    encoded, losses = bench.prepared.encoded, []
    loaded = base.load(bench.recipe.model, bench.prepared.location, "none", 48, encoded.form)
    for n in (0, 9):
        with loaded.borrow() as model:
            adapted = adapt(bench.prepared, bench.cells[f"reg-{n}"], model, Watch()).model
            losses.append(encoded.loss(adapted, encoded.collate(encoded.train)))
            losses[-1].backward()
            assert "forward" not in vars(model), "the model is as it was"
    assert losses[0] < losses[1] - 0.01


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([{**row, "positive": row["anchor"]} for row in pairs()], "its anchor and its positive are the same"),
        ([{**row, "negative": row["positive"]} for row in triplets()], "its positive and its negative are the same"),
        ([{**row, "negative": row["anchor"]} for row in triplets()], "its anchor and its negative are the same"),
        (
            [*triplets(20), *pairs()[20:]],
            "it has no negative; 20 rows have none, and 20 have one. Give one to every row",
        ),
        ([*pairs(20), *triplets()[20:]], "it has no negative; 20 rows have none"),
        ([{**row, "anchor": " "} for row in pairs()], "all 40 rows have an empty 'anchor'"),
        ([{**row, "positive": "same"} for row in pairs()], "every model finds one"),
        ([{**row, "score": "high"} for row in scored()], "its score 'high' is not a number"),
        ([{**row, "score": float("nan")} for row in scored()], "its score '' is not a number"),
        ([{**row, "score": "inf"} for row in scored()], "its score 'inf' is not a number"),
        ([{**row, "score": 1} for row in scored()], "all rows of train have the same score"),
        ([{"text": "a", "label": "b"}], "fit no format"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    rows: list[dict[str, Any]], wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    no_weights: None,
) -> None:  # fmt: skip
    assert_refused(adapterzoo, recipe(rows), wanted)


@pytest.mark.parametrize(
    ("rows", "task", "wanted"),
    [
        (pairs, "loss: triplet", "triplet learns from triplets, and these rows are pairs. Choose from: multiple_neg"),
        (scored, "loss: multiple_negatives", "these rows are scored pairs. Choose from: cosent, cosine"),
        (pairs, "margin: 1.0", "task.margin: has no effect: it is an option of triplet"),
        (triplets, "loss: triplet, scale: 3.0", "task.scale: has no effect"),
        (pairs, "scale: 0.0", "scale"),
        (lambda: [{**row, "score": n % 5} for n, row in enumerate(scored())], "loss: cosine", "from -1 to 1"),
    ],
)
def test_options_that_do_not_suit_the_rows_are_refused(
    rows: Callable[[], list[dict[str, Any]]], task: str, wanted: str, recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result], no_weights: None,
) -> None:  # fmt: skip
    assert_refused(adapterzoo, recipe(rows(), f"{{name: embedding, {task}}}"), wanted)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("train.batch_size", "1", "the loss compares the rows of a batch, and with 1 nothing is learned"),
        ("evaluate.metrics", "[spearman]", "'spearman' says nothing about which texts are found"),
        ("data.system", "Hello", "does not use 'system'"),
    ],
)
def test_keys_that_do_not_suit_the_task_are_refused(
    key: str, value: str, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    assert_refused(adapterzoo, recipe(pairs()), wanted, "--set", f"{key}={value}")


@pytest.mark.parametrize(("version", "wanted"), [(None, "needs the package"), ("5.4.1", "6 or newer, and 5.4.1")])
def test_a_missing_library_is_reported_before_weights_are_loaded(
    version: str | None, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    known = metadata.version

    def changed(name: str) -> str:
        if name != "sentence-transformers":
            return known(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", changed)
    assert_refused(adapterzoo, recipe(pairs()), wanted)
    assert_refused(adapterzoo, recipe(pairs()), "pip install 'adapterzoo[embedding]'")


def test_the_task_is_listed_without_importing_the_library(adapterzoo_process: Callable[..., Any]) -> None:
    done = adapterzoo_process("methods", "--task", "embedding", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert "lora" in done.stdout
    assert "sentence_transformers" not in done.stderr
