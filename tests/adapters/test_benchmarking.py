"""Measure trained adapters with tasks of lm-eval: its own numbers, compared by our statistics."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from refusals import refused
from safetensors.torch import load_file, save_file
from tiny import RECIPE, VERBS, past

from adapterzoo.cli import main

CHOICE = """\
task: verbs_choice
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
"""
PAST = """\
task: verbs_past
output_type: generate_until
doc_to_target: past
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: loose, filter: [{function: regex, regex_pattern: "(\\\\w)"}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
# It wants to write more tokens than the tiny model can read, which is an error of lm-eval for every model.
TOO_LONG = PAST.replace("verbs_past", "too_long").replace("max_gen_toks: 8", "max_gen_toks: 4096")
ROWS = """\
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
doc_to_text: "{{{{verb}}}}"
"""
ELSEWHERE = "dataset_path: nobody/nothing\ntest_split: test\ndoc_to_text: x\n"
METHODS = ("lora", "ia3", "qlora", "prompt-tuning")
BATCH_SIZE = 8  # as in the recipe
# With padding, PEFT puts a learned prompt at other positions than in training; in rows of one length it does not.
BATCH_SIZES = {"prompt-tuning": 1}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of task files."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"verb": verb, "past": past(verb), "choices": [verb + "ing", past(verb), verb + "s"], "label": 1}
        for verb in VERBS[:12]
    ]
    (folder / "verbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, text in enumerate((CHOICE, PAST, TOO_LONG)):
        (folder / f"{number}.yaml").write_text(text + ROWS.format(rows=folder / "verbs.jsonl"))
    (folder / "unsafe.yaml").write_text(
        PAST.replace("verbs_past", "unsafe") + ROWS.format(rows=folder / "verbs.jsonl") + "unsafe_code: true\n"
    )
    (folder / "elsewhere.yaml").write_text(PAST.replace("verbs_past", "elsewhere") + ELSEWHERE)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """Return the output folder of a run of some methods, one of them on nf4."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("run")
    recipe = RECIPE.format(model=tiny_model, data=tiny_data, methods=", ".join(METHODS))
    (folder / "recipe.yaml").write_text(recipe.replace("shots: 2", "shots: 0"))
    sets = ("--set", "train.learning_rate=1e-2", "--set", "evaluate.metrics=[loss]", "--jobs", "0")
    done = CliRunner().invoke(main, ["run", str(folder / "recipe.yaml"), *sets, "--out", str(folder / "out")])
    assert done.exit_code == 0, done.output
    return folder / "out"


@pytest.fixture(scope="module")
def measured(out: Path, tasks: Path) -> Result:
    """Return what the command printed for two tasks; its folders are beside ``out``."""
    arguments = ["evaluate", str(out), "--tasks", "verbs_choice,verbs_past", "--include-path", str(tasks)]
    return CliRunner().invoke(main, arguments)


def lines(cell: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cell / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def result(cell: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((cell / "result.json").read_text(encoding="utf-8"))
    return content


def plain_scores(out: Path, model: Path, tasks: Path, label: str) -> Any:
    """Return what lm-eval says of an adapter, or of the base model, that PEFT and transformers have loaded."""
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from adapterzoo.model.quantization import finish

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    quantization = {"quantization_config": nf4} if label == "qlora" else {}
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, **quantization)
    finish(loaded)  # bitsandbytes would compute in bfloat16 on CPUs that can
    if label != "base":
        loaded = PeftModel.from_pretrained(loaded, out / label / "seed-0" / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(model)
    return lm_eval.simple_evaluate(
        HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=BATCH_SIZES.get(label, BATCH_SIZE)),
        tasks=["verbs_choice", "verbs_past"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        apply_chat_template=True,
        bootstrap_iters=0,
    )


@pytest.mark.parametrize("label", ["base", *METHODS])
def test_the_numbers_are_those_of_lm_eval(
    measured: Result, out: Path, tiny_model: Path, tasks: Path, label: str
) -> None:
    assert measured.exit_code == 0, measured.output
    plain = plain_scores(out, tiny_model, tasks, label)
    for task, samples in plain["samples"].items():
        cell = out.parent / f"out-on-{task}" / label / "seed-0"
        metrics, records = result(cell)["metrics"], lines(cell)
        numbers = {name: value for name, value in plain["results"][task].items() if isinstance(value, float)}
        for name, value in numbers.items():
            metric, _, answers = name.partition(",")
            column = f"{task} {metric}" if answers == "none" else f"{task} {metric} {answers}"
            assert metrics[column] == pytest.approx(value, rel=1e-5), column
            for sample in samples if metric != "brier_score" else ():
                record = records[sample["doc_id"]]
                assert (record["doc_hash"], record["prompt"]) == (sample["doc_hash"], sample["arguments"][0][0])
                if sample["filter"] == answers:
                    assert record[column] == sample[metric], (column, sample["doc_id"])
        assert len(metrics) == len(numbers)


def test_adapters_on_one_base_answer_for_themselves(measured: Result, out: Path) -> None:
    assert measured.exit_code == 0, measured.output
    choice, past_tense = (out.parent / f"out-on-{task}" for task in ("verbs_choice", "verbs_past"))
    texts = {label: [line["prediction"] for line in lines(past_tense / label / "seed-0")] for label in METHODS}
    assert texts["lora"] != texts["ia3"]
    brier = [result(choice / label / "seed-0")["metrics"]["verbs_choice brier_score"] for label in ("base", *METHODS)]
    assert len(set(brier)) == len(brier)


def test_the_table_has_intervals_and_says_what_has_none(
    measured: Result, out: Path, adapterzoo: Callable[..., Result]
) -> None:
    assert "known only for all examples together, and so without interval: verbs_choice brier_score" in " ".join(
        measured.stdout.split()
    )
    choice, past_tense = (out.parent / f"out-on-{task}" for task in ("verbs_choice", "verbs_past"))
    compared = json.loads(adapterzoo("compare", choice, past_tense, out, "--json").stdout)
    assert len(compared["blocks"]) == 3
    rows = {row["label"]: row for row in compared["rows"] if row["block"] == 0}
    assert set(rows) == {"base", *METHODS}
    for row in rows.values():
        assert (row["rank_metric"], row["examples"], row["unproven"]) == ("verbs_choice acc", 12, [])
        assert set(row["intervals"]) == {"verbs_choice acc", "verbs_choice acc_norm"}
        assert row["lower_is_better"] == ["verbs_choice brier_score"]
        assert row["p_value"] is not None or row["difference"] == 0


def test_only_what_is_missing_or_has_changed_is_measured(
    measured: Result, out: Path, tasks: Path, adapterzoo: Callable[..., Result]
) -> None:
    from dataclasses import replace

    from adapterzoo.results.adapter_folder import adapter_files
    from adapterzoo.results.reading import read_result
    from adapterzoo.results.store import Store

    assert measured.exit_code == 0, measured.output
    command = partial(adapterzoo, "evaluate", out, "--tasks", "verbs_choice", "--include-path", tasks)
    again = command("-m", "lora", "-m", "ia3")
    assert again.exit_code == 0, again.output
    assert again.stderr.count("(already done)") == 3
    cell = out / "ia3" / "seed-0"
    weights = cell / "adapter" / "adapter_model.safetensors"
    before, loaded, known = weights.read_bytes(), load_file(weights), read_result(cell / "result.json")
    try:  # another training gives other weights
        save_file({name: weight * 1.5 for name, weight in loaded.items()}, weights)
        Store(out).write(replace(known, adapter_files=adapter_files(cell / "adapter")))
        changed = command("-m", "lora", "-m", "ia3")
    finally:
        weights.write_bytes(before)
        Store(out).write(known)
    assert changed.exit_code == 0, changed.output
    assert changed.stderr.count("(already done)") == 2
    # With other settings the results are in a folder of their own.
    limited = command("-m", "lora", "--no-base", "--limit", 5, "--no-apply-chat-template")
    assert limited.exit_code == 0, limited.output
    (folder,) = out.parent.glob("out-on-verbs_choice-*")
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["lora"]
    assert [line["prompt"] for line in lines(folder / "lora" / "seed-0")] == list(VERBS[:5])


def test_a_failure_is_a_row_of_its_own(out: Path, tasks: Path, adapterzoo: Callable[..., Result]) -> None:
    done = adapterzoo(
        "evaluate", out, "--tasks", "too_long,verbs_choice", "--include-path", tasks, "-m", "lora", "--no-base",
        "--out", out.parent / "failing",
    )  # fmt: skip
    assert done.exit_code == 1, done.output
    assert "max tokens to generate" in result(out.parent / "failing" / "too_long" / "lora" / "seed-0")["error"]
    assert result(out.parent / "failing" / "verbs_choice" / "lora" / "seed-0")["status"] == "ok"


def test_wrong_tasks_are_refused_before_a_model_is_loaded(
    out: Path, tasks: Path, adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval_tasks = pytest.importorskip("lm_eval.tasks")
    from adapterzoo.model import base

    # The 14,000 tasks of lm-eval itself take six seconds to list.
    monkeypatch.setattr(lm_eval_tasks, "TaskManager", partial(lm_eval_tasks.TaskManager, include_defaults=False))
    monkeypatch.setattr(base, "load", lambda *_: pytest.fail("a model was loaded"))
    command = partial(adapterzoo, "evaluate", out, "--include-path", tasks, "--tasks")
    refused(command("verbs_choise"), "--tasks verbs_choise", "no such task", "Did you mean 'verbs_choice'?")
    refused(command("xyz"), "--tasks xyz", "lm-eval ls tasks")
    refused(command("verbs_choice,elsewhere"), "--tasks elsewhere", "cannot be loaded", "nobody/nothing", "a hub")
    refused(command("unsafe"), "--tasks unsafe", "runs the code that a model writes")
    wrong = adapterzoo("evaluate", out, "--include-path", tasks, "--tasks", "verbs_choice", "-m", "lokr")
    refused(wrong, "--method lokr", "has no such adapter")


@pytest.mark.parametrize(("name", "joint"), [("a_tag", []), ("by_size", []), ("equal", ["equal acc"])])
def test_one_name_may_stand_for_several_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, joint: list[str]
) -> None:
    lm_eval_tasks = pytest.importorskip("lm_eval.tasks")
    from lm_eval.models.dummy import DummyLM

    from adapterzoo.adapters.benchmark_scores import benchmark_scores
    from adapterzoo.adapters.benchmarks import Asking, load_benchmarks

    monkeypatch.setattr(lm_eval_tasks, "TaskManager", partial(lm_eval_tasks.TaskManager, include_defaults=False))
    for task, number in (("first", 6), ("second", 10)):
        rows = [{"verb": f"{task} {index}", "choices": ["x", "y"], "label": index % 2} for index in range(number)]
        (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = CHOICE.replace("verbs_choice", task) + ROWS.format(rows=tmp_path / f"{task}.jsonl") + "tag: a_tag\n"
        (tmp_path / f"{task}.yaml").write_text(text)
    for group, by_size in (("by_size", "true"), ("equal", "false")):
        weights = f"aggregate_metric_list: [{{metric: acc, aggregation: mean, weight_by_size: {by_size}}}]\n"
        (tmp_path / f"{group}.yaml").write_text(f"group: {group}\ntask: [first, second]\n{weights}")
    (benchmark,) = load_benchmarks([name], tmp_path, Asking(limit=8))
    output = benchmark.run(DummyLM())
    scores = benchmark_scores(name, output)
    assert len(scores.records) == 6 + 8
    assert scores.joint == joint
    by_task = [output["results"][task]["acc,none"] for task in ("first", "second")]
    expected = sum(by_task) / 2 if joint else (6 * by_task[0] + 8 * by_task[1]) / 14
    assert scores.metrics[f"{name} acc"] == pytest.approx(expected)
    # Of a group there is what lm-eval says, of a tag the metrics that are means over the examples.
    assert [*scores.metrics] == [f"{name} acc", *([f"{name} acc_norm"] if name == "a_tag" else [])]


def test_the_missing_library_is_named(
    adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = metadata.version

    def version(name: str, found: str | None) -> str:
        if name != "lm_eval":
            return known(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    for found, what in ((None, "needs the package lm-eval"), ("0.4.9", "needs lm-eval 0.4.13 or newer, and 0.4.9")):
        monkeypatch.setattr(metadata, "version", partial(version, found=found))
        refused(adapterzoo("evaluate", tmp_path, "--tasks", "gsm8k"), what, "pip install 'adapterzoo[lm-eval]'")


def test_options_that_do_not_belong_together_are_refused(adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    command = partial(adapterzoo, "evaluate", tmp_path)
    refused(command(), "--data, --tasks", "give one of them")
    refused(command("--data", "x.csv", "--tasks", "gsm8k"), "give only one of them")
    refused(command("--data", "x.csv", "--limit", 3, "--no-base"), "--limit: belongs to --tasks", "--base: belongs")
    refused(command("--tasks", "gsm8k", "--set", "a=b", "--jobs", 2), "--set: belongs to --data", "--jobs: belongs")
    refused(command("--tasks", " , "), "--tasks: is empty")
