"""Use trained adapters: answer on the base they were trained on, and merge them into a plain model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench
from click.testing import Result
from refusals import refused
from safetensors.torch import load_file, save_file

LEARN = ("--set", "train.learning_rate=1e-2", "--set", "evaluate.max_new_tokens=20")
WEIGHTS = "adapter_model.safetensors"
PAD = ("--set", "model.padding_token=<|pad|>")


@pytest.mark.parametrize("extra", [(), PAD, ("--set", "data.chat_template=plain")])
def test_a_trained_adapter_answers_as_it_did_when_it_was_measured(
    extra: tuple[str, ...], write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    recipe = write_recipe("{name: lora, label: mine, r: 16}", steps="40")
    sets = (*LEARN, "--set", "data.system=Past tense.", *extra)
    assert adapterzoo("run", recipe, *sets, "--out", out).exit_code == 0
    lines = (out / "mine" / "seed-0" / "predictions.jsonl").read_text().splitlines()
    wanted = [json.loads(line) for line in lines]
    prompts = [part for line in wanted for part in ("--prompt", line["prompt"])]
    done = adapterzoo("generate", out, "--method", "mine", *prompts, "--max-new-tokens", "20")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [line["prediction"] for line in wanted]
    # Plain transformers gives the same answers from the folder of the merged model.
    merged = tmp_path / "merged"
    done = adapterzoo("merge", out, "-m", "lora", "--to", merged)
    assert done.exit_code == 0, done.stderr
    assert plain_answers(merged, wanted, out) == [line["prediction"] for line in wanted]
    again = adapterzoo("merge", out, "-m", "mine", "--to", merged)
    assert again.exit_code == 2
    assert "already exists" in again.stderr


def plain_answers(folder: Path, wanted: list[dict[str, str]], out: Path) -> list[str]:
    """Return the answers of a model folder, generated with transformers alone from adapterzoo's prompts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from adapterzoo.adapters.loading import question_row
    from adapterzoo.recipe.document import read
    from adapterzoo.recipe.schema import Recipe
    from adapterzoo.tokens.encode import Encoder

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    data = Recipe.model_validate(read(out / "recipe.yaml").data).data
    encoder = Encoder(tokenizer, data)
    answers = []
    for line in wanted:
        ids = torch.tensor([encoder.prompt(question_row(data, line["prompt"]))])
        output = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=2, pad_token_id=0)
        answers.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return answers


def test_an_added_padding_token_has_an_embedding_and_changes_no_logits(write_recipe: Callable[..., Path]) -> None:
    import torch

    plain, added = Bench(write_recipe("lora")), Bench(write_recipe("lora"), "model.padding_token=<|pad|>")
    tokenizer = added.prepared.encoded.tokenizer
    assert tokenizer.pad_token == "<|pad|>"
    assert added.prepared.encoded.pad_id == tokenizer.pad_token_id == 259 == added.prepared.encoded.form.vocabulary - 1
    first = plain.load("none").get_model()
    from adapterzoo.model import base

    second = base.load(added.recipe.model, added.prepared.location, "none", 64, added.prepared.encoded.form).get_model()
    assert second.get_input_embeddings().weight.shape[0] == 264, "a multiple of 8"
    assert second.config.vocab_size == 264
    ids = torch.tensor([added.prepared.encoded.test[0].prompt])
    with torch.no_grad():
        assert torch.equal(first(ids).logits, second(ids).logits[..., :259])
    assert added.prepared.base_parameters == sum(p.numel() for p in second.parameters())
    assert torch.equal(second.get_input_embeddings().weight[259], second.get_input_embeddings().weight[263])


def test_adapters_that_do_not_exist_are_refused(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    recipe = write_recipe("lora, {name: lora, label: big, r: 16}, prompt-tuning", steps="1", shots="0")
    assert adapterzoo("run", recipe, "--out", out).exit_code == 0
    for arguments, expected in (
        (("generate", out, "-m", "lroa", "--prompt", "x"), "Did you mean 'lora'"),
        (
            ("generate", out, "-m", "lora", "--seed", "4", "--prompt", "x"),
            "'lora' was not trained with this seed. Choose from: 0.",
        ),
        (("generate", tmp_path, "-m", "lora", "--prompt", "x"), "holds no results"),
        (("generate", out, "-m", "lora"), "there is no prompt"),
        (("merge", out, "-m", "prompt-tuning", "--to", tmp_path / "m"), "has nothing to merge into a model"),
        (("merge", out, "-m", "base", "--to", tmp_path / "m"), "has no such adapter"),
    ):
        done = adapterzoo(*arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert expected in " ".join(done.stderr.split())
        assert done.stdout == ""
    assert adapterzoo("generate", out, "-m", "big", "--prompt", "go", "--max-new-tokens", "2").exit_code == 0


def test_a_4_bit_adapter_answers_on_4_bits_and_is_merged_without_quantization(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert adapterzoo("run", write_recipe("qlora", steps="2"), "--out", out).exit_code == 0
    wanted = [json.loads(line) for line in (out / "qlora/seed-0/predictions.jsonl").read_text().splitlines()]
    prompts = [part for line in wanted for part in ("--prompt", line["prompt"])]
    done = adapterzoo("generate", out, "-m", "qlora", *prompts, "--max-new-tokens", "4")
    assert [line.strip() for line in done.stdout.split("\n")[:-1]] == [line["prediction"] for line in wanted]
    done = adapterzoo("merge", out, "-m", "qlora", "--to", tmp_path / "merged")
    assert done.exit_code == 0, done.stderr
    assert "merged without quantization" in done.stderr
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "quantization_config" not in config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """Return the output folder of a run with two methods that learned something."""
    from tiny import RECIPE

    import adapterzoo

    folder = tmp_path_factory.mktemp("trained")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods="lora, ia3"))
    sets = ["train.learning_rate=1e-2", "train.steps=30", "evaluate.base=false"]
    adapterzoo.run(recipe, folder / "out", overrides=sets)
    return folder / "out"


@pytest.fixture
def out(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the output folder, which a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "out"))


def without_b(adapter: Path, other_adapter: Path) -> None:
    weights = {name: tensor for name, tensor in load_file(adapter / WEIGHTS).items() if "lora_B" not in name}
    save_file(weights, adapter / WEIGHTS, metadata={"format": "pt"})


def folder_of_another_method(adapter: Path, other_adapter: Path) -> None:
    shutil.rmtree(adapter)
    shutil.copytree(other_adapter, adapter)


def weights_of_another_method(adapter: Path, other_adapter: Path) -> None:
    shutil.copy(other_adapter / WEIGHTS, adapter / WEIGHTS)


def with_one_flipped_bit(adapter: Path, other_adapter: Path) -> None:
    content = bytearray((adapter / WEIGHTS).read_bytes())
    content[-8] ^= 1
    (adapter / WEIGHTS).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "digests"),
    [
        (without_b, True),
        (folder_of_another_method, True),
        (weights_of_another_method, True),
        (with_one_flipped_bit, True),
        # A result of an older adapterzoo has no digests, so that only the names of the weights show the damage.
        *((damage, False) for damage in (without_b, weights_of_another_method)),
    ],
)
def test_a_damaged_adapter_is_refused(
    damage: Any, digests: bool, out: Path, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    damage(out / "lora" / "seed-0" / "adapter", out / "ia3" / "seed-0" / "adapter")
    if not digests:
        path = out / "lora" / "seed-0" / "result.json"
        result = json.loads(path.read_text())
        del result["adapter_files"], result["digest"]
        path.write_text(json.dumps(result))
    for command in (("generate", "--prompt", "go"), ("merge", "--to", tmp_path / "merged")):
        done = adapterzoo(command[0], out, "-m", "lora", *command[1:])
        assert done.exit_code == 2, done.output
        assert done.stdout == ""
        text = " ".join(done.stderr.split())
        assert "is not what the run wrote" in text or "does not match the adapter" in text
        assert "Run the recipe again" in text
    assert not (tmp_path / "merged").exists()


def effect_in_hooks(method: Any, model: Any) -> Any:
    """Merge wrongly: the model in memory answers right, but its weights are those of the base."""
    before = {name: weight.clone() for name, weight in linear_weights(model.get_base_model())}
    merged = model.merge_and_unload()
    for name, weight in list(linear_weights(merged)):
        name = name.replace(".base_layer", "")
        delta = weight.detach() - before[name]
        weight.data.copy_(before[name])
        hook = lambda layer, inputs, output, delta=delta: output + inputs[0] @ delta.T  # noqa: E731
        merged.get_submodule(name).register_forward_hook(hook)
    return merged


def linear_weights(model: Any) -> Any:
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ("_proj" in name) and "lora_" not in name:
            yield name.replace(".base_layer", ""), module.weight


def effect_in_a_buffer_that_is_not_saved(method: Any, model: Any) -> Any:
    merged = model.merge_and_unload()
    layer = merged.model.layers[0].mlp
    weight = layer.up_proj.weight.detach()
    layer.up_proj = UpProjection(weight)
    return merged


class UpProjection(torch.nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("merged", weight, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.merged.T


@pytest.mark.parametrize(
    "merge", [effect_in_hooks, effect_in_a_buffer_that_is_not_saved, lambda method, model: model.unload()]
)
def test_a_merge_that_loses_the_adapter_is_refused(
    merge: Any, out: Path, adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.methods.registry import registry

    monkeypatch.setattr(type(registry()["lora"]), "merge", merge)
    done = adapterzoo("merge", out, "-m", "lora", "--to", tmp_path / "merged")
    assert done.exit_code == 2, done.output
    assert "written" not in done.stderr or "nothing was written" in " ".join(done.stderr.split())
    assert not list(tmp_path.glob("*merged*")), "no folder is left"


def test_a_merge_that_loses_a_small_effect_is_refused(
    trained: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In bfloat16, merging may change the logits by more than a short training did."""
    from adapterzoo.methods.registry import registry

    recipe = write_recipe("lora", steps="2", dtype="bfloat16")
    assert adapterzoo("run", recipe, "--set", "train.learning_rate=2e-3", "--out", tmp_path / "o").exit_code == 0
    assert adapterzoo("merge", tmp_path / "o", "-m", "lora", "--to", tmp_path / "well").exit_code == 0
    monkeypatch.setattr(type(registry()["lora"]), "merge", lambda method, model: model.unload())
    done = adapterzoo("merge", tmp_path / "o", "-m", "lora", "--to", tmp_path / "lost")
    assert done.exit_code == 2, done.output
    assert "The merged model does not answer like the adapter; nothing was written." in " ".join(done.stderr.split())


def test_the_merged_model_keeps_the_generation_configuration_of_its_base(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    settings = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**settings, "repetition_penalty": 5.0}))
    recipe, out = write_recipe("lora", steps="10"), tmp_path / "o"
    arguments = ("--set", f"model.name={model}", "--set", "train.learning_rate=1e-2")
    assert adapterzoo("run", recipe, *arguments, "--out", out).exit_code == 0
    plain_run = adapterzoo("run", recipe, *arguments[2:], "--out", tmp_path / "plain")
    assert plain_run.exit_code == 0
    answers = [(folder / "lora/seed-0/predictions.jsonl").read_text() for folder in (out, tmp_path / "plain")]
    assert answers[0] == answers[1], "greedy means greedy"
    assert adapterzoo("merge", out, "-m", "lora", "--to", tmp_path / "merged").exit_code == 0
    assert json.loads((tmp_path / "merged/generation_config.json").read_text())["repetition_penalty"] == 5.0


ESCAPES = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eback\ttab\nnext\r"


def test_answers_send_no_control_characters_to_a_terminal_and_are_unchanged_in_a_pipe(
    out: Path, adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from adapterzoo.cli import generate as command
    from adapterzoo.evaluation import generation

    monkeypatch.setattr(generation, "generate", lambda *_: [ESCAPES])
    piped = adapterzoo("generate", out, "-m", "lora", "--prompt", "go")
    assert piped.stdout_bytes == f"{ESCAPES}\n".encode()
    shown: list[str] = []
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda self: True, raising=False)
    monkeypatch.setattr(command.click, "echo", shown.append)
    command._print(ESCAPES)
    (text,) = shown
    assert not {"\x1b", "\x07", "\u202e", "\r"} & set(text)
    assert text.count("\n") == 1
    assert "\ttab\nnext" in text


def test_files_of_a_killed_merge_are_not_in_the_next_one(
    out: Path, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / ".merged.new").mkdir()
    (tmp_path / ".merged.new" / "added_tokens.json").write_text('{"<junk>": 999}')
    assert adapterzoo("merge", out, "-m", "lora", "--to", tmp_path / "merged").exit_code == 0
    assert not (tmp_path / "merged" / "added_tokens.json").exists()


def test_an_invalid_recipe_in_the_output_folder_is_named(out: Path, adapterzoo: Callable[..., Result]) -> None:
    (out / "recipe.yaml").write_text("foo: 1")
    done = adapterzoo("generate", out, "-m", "lora", "--prompt", "go")
    assert done.exit_code == 2
    assert "recipe.yaml: is not what the run wrote" in done.stderr


def test_a_question_is_no_longer_than_the_model_can_read(
    out: Path, adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.model import base

    # The model reads 256 tokens. An answer ends where there is no room left, and does not shorten the others.
    prompts = ("--prompt", "go" * 90, "--prompt", "walk", "--prompt", "go" * 110)
    done = adapterzoo("generate", out, "-m", "lora", *prompts, "--max-new-tokens", "60")
    assert done.exit_code == 0, done.output
    alone = [
        adapterzoo("generate", out, "-m", "lora", "--prompt", prompt, "--max-new-tokens", "60").stdout
        for prompt in prompts[1::2]
    ]
    assert done.stdout == "".join(alone)
    monkeypatch.setattr(base, "load", lambda *_: pytest.fail("weights were loaded"))
    long = adapterzoo("generate", out, "-m", "lora", "--prompt", "go", "--prompt", "go" * 6000)
    refused(long, "--prompt: question 2 has 12,0", "tokens, and the model can read 256. Shorten it.")


def without_digests(out: Path) -> Path:
    """Remove what shows that files were changed, as in results of an older adapterzoo; return the adapter's folder."""
    path = out / "lora" / "seed-0" / "result.json"
    result = json.loads(path.read_text())
    path.write_text(
        json.dumps({name: value for name, value in result.items() if name not in ("adapter_files", "digest")})
    )
    return path.parent / "adapter"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (WEIGHTS, 0.5, "cannot be loaded: "),
        (WEIGHTS, b"", "cannot be loaded: "),
        (WEIGHTS, b"\xff" * 999, "cannot be loaded: "),
        ("adapter_config.json", 0.5, "cannot be loaded: "),
        ("adapter_config.json", b"[]", "cannot be loaded: "),
        ("tokenizer.json", 0.5, "its tokenizer cannot be loaded: "),
        ("tokenizer.json", b"{}", "its tokenizer cannot be loaded: "),
        ("tokenizer_config.json", 0.5, "its tokenizer cannot be loaded: "),
    ],
)
def test_a_damaged_adapter_is_named_and_not_its_base(
    name: str, content: float | bytes, expected: str, out: Path, adapterzoo: Callable[..., Result]
) -> None:
    path = without_digests(out) / name
    whole = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else whole[: int(len(whole) * content)])
    done = adapterzoo("generate", out, "-m", "lora", "--prompt", "go")
    refused(done, f"error: {path.parent}: {expected}", "Run the recipe again: it trains damaged adapters again.")


def test_an_adapter_folder_that_is_gone_is_named(out: Path, adapterzoo: Callable[..., Result]) -> None:
    folder = out / "lora" / "seed-0" / "adapter"
    shutil.rmtree(folder)
    done = adapterzoo("generate", out, "-m", "lora", "--prompt", "go")
    refused(done, f"error: {folder}: does not exist any more. Run the recipe again")
    assert "smollm2" not in done.stderr


def test_the_names_in_a_configuration_are_in_the_same_order_in_every_process(trained: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    from adapterzoo.methods.peft import sort_names

    for method in ("lora", "ia3"):
        config = json.loads((trained / method / "seed-0" / "adapter" / "adapter_config.json").read_text())
        assert config["target_modules"] == sorted(config["target_modules"])
    names = [f"layer_{number}" for number in range(50)]  # a set of so many is in order only by a miracle
    config = LoraConfig(
        target_modules=names, exclude_modules=names[::-1], layers_pattern=["b", "a"], layers_to_transform=[0]
    )
    config.save_pretrained(tmp_path)
    sort_names(config, tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["target_modules"] == saved["exclude_modules"] == sorted(names)
    assert saved["layers_pattern"] == ["b", "a"], "a list stays as it is"
    assert LoraConfig.from_pretrained(tmp_path).target_modules == set(names)
