"""Check a whole run: what is trained, what is on disk, what a failure costs, and what a second run does."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result


def rows(out: Path, adapterzoo: Callable[..., Result]) -> dict[str, dict[str, object]]:
    printed = adapterzoo("compare", out, "--format", "json").stdout
    return {row["label"]: row for row in json.loads(printed)["rows"]}


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_all_seven_methods_train_with_every_quantization(
    quantization: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    done = adapterzoo(
        "run", write_recipe(dtype="bfloat16"), "--set", f"model.quantization={quantization}", "--out", tmp_path / "o"
    )
    assert done.exit_code == 0, done.output
    found = rows(tmp_path / "o", adapterzoo)
    assert set(found) == {"base", "base-2-shot", "lora", "qlora", "ia3", "loha", "lokr", "adalora", "oft"}
    for label, row in found.items():
        assert row["status"] == "ok", row
        assert row["quantization"] == ("nf4" if label == "qlora" else quantization)
        assert set(row["metrics"]) == {"test_loss", "perplexity", "exact_match"}
        assert row["peak_memory_bytes"] > 0
        if row["method"]:
            assert 0 < row["trainable_params"] < row["total_params"]
            for name in ("adapter_bytes", "train_seconds", "tokens_per_second", "learning_rate"):
                assert row[name] > 0, name
            losses = [
                e["loss"]
                for e in json.loads((tmp_path / "o" / label / "seed-0" / "result.json").read_text())["history"]
            ]
            assert losses[-1] < losses[0], label
    # The base model's number of parameters does not depend on the quantization.
    assert len({found[label]["total_params"] for label in ("base", "base-2-shot")}) == 1
    assert (
        found["lora"]["total_params"]
        == found["qlora"]["total_params"]
        == found["base"]["total_params"] + found["lora"]["trainable_params"]
    )


def test_the_files_of_a_run(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "o"
    assert (
        adapterzoo("run", write_recipe("lora, {name: adalora, label: ada}"), "--seed", "3", "--out", out).exit_code == 0
    )
    cell = out / "lora" / "seed-3"
    assert {path.name for path in cell.iterdir()} == {"result.json", "predictions.jsonl", "adapter"}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        p.name for p in (cell / "adapter").iterdir()
    }
    result = json.loads((cell / "result.json").read_text())
    assert result["seed"] == 3
    assert result["environment"]["packages"]["peft"]
    assert len(result["history"]) == 6
    lines = [json.loads(line) for line in (cell / "predictions.jsonl").read_text().splitlines()]
    asked = [
        json.loads(line)["prompt"] for line in (out / "base" / "seed-0" / "predictions.jsonl").read_text().splitlines()
    ]
    assert [line["prompt"] for line in lines] == asked, "the same examples in the same order in every row"
    assert sum(line["loss"] for line in lines) / sum(line["tokens"] for line in lines) == pytest.approx(
        result["metrics"]["test_loss"]
    )
    assert sum(line["exact_match"] for line in lines) / len(lines) == result["metrics"]["exact_match"]
    assert json.loads((out / "ada" / "seed-3" / "result.json").read_text())["findings"]["ranks"]
    # The saved tokenizer does not pad with the end token.
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(cell / "adapter")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_what_a_method_returns_is_checked_and_only_its_own_row_fails(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from adapterzoo.methods.registry import registry

    def leaves(self: object, model: Any, *_: object) -> None:
        if not next(model.parameters()).is_meta:
            raise SystemExit(0)

    answers = {
        ("oft", "findings"): lambda self, model: {"scale": torch.tensor(0.5)},
        ("ia3", "findings"): lambda self, model: 5,
        ("vera", "findings"): lambda self, model: {"scale": float("nan")},
        ("loha", "save"): lambda self, model, folder: None,
        ("lokr", "wrap"): leaves,
        ("boft", "callbacks"): lambda self, options, context: [3],
    }
    for (name, attribute), answer in answers.items():
        monkeypatch.setattr(type(registry()[name]), attribute, answer, raising=False)
    methods = [name for name, _ in answers]
    done = adapterzoo("run", write_recipe(", ".join([*methods, "lora"]), steps="1"), "--out", tmp_path / "o")
    assert done.exit_code == 1
    found = rows(tmp_path / "o", adapterzoo)
    assert {label: row["status"] for label, row in found.items() if row["method"]} == {
        **dict.fromkeys(methods, "failed"), "lora": "ok",
    }  # fmt: skip
    assert "findings() returned a value for 'scale' that cannot be written as JSON" in found["oft"]["error"]
    assert found["ia3"]["error"] == "findings() returned 5, not a dictionary"
    assert "findings() returned a value for 'scale' that cannot be written as JSON" in found["vera"]["error"]
    assert "NaN" not in (tmp_path / "o" / "vera" / "seed-0" / "result.json").read_text()
    assert found["loha"]["error"] == "save() of loha wrote no safetensors into its folder"
    assert found["lokr"]["error"].startswith("SystemExit")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *_: 1 / 0, "problems() of oft raised ZeroDivisionError: division by zero"),
        (lambda *_: "nonsense", "problems() of oft returned 'nonsense', not a list of problems"),
        (lambda *_: None, "problems() of oft returned None"),
    ],
)
def test_a_wrong_answer_before_training_is_reported_with_the_plugin(
    answer: Any, message: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from adapterzoo.methods.registry import registry

    monkeypatch.setattr(type(registry()["oft"]), "problems", answer)
    done = adapterzoo("run", write_recipe("lora, oft"), "--out", tmp_path / "o")
    assert done.exit_code == 2
    assert f"adapterzoo: its plugin has an error: {message}" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_cell_that_fails_is_a_row_with_its_reason_and_the_others_finish(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from adapterzoo.methods.registry import registry

    def raises(*_: object) -> object:
        raise RuntimeError("no [red]wrap[/] today")

    def greedy(*_: object) -> object:
        raise MemoryError("cannot allocate 7 TB")

    monkeypatch.setattr(type(registry()["oft"]), "wrap", raises, raising=False)
    monkeypatch.setattr(type(registry()["ia3"]), "wrap", greedy, raising=False)
    methods = "oft, {name: lora, label: diverges, learning_rate: 1e30}, ia3, lora"
    done = adapterzoo("run", write_recipe(methods), "--out", tmp_path / "o")
    assert done.exit_code == 1
    found = rows(tmp_path / "o", adapterzoo)
    assert {label: row["status"] for label, row in found.items() if row["method"]} == {
        "oft": "failed", "diverges": "failed", "ia3": "failed", "lora": "ok",
    }  # fmt: skip
    assert found["oft"]["error"] == "RuntimeError: no [red]wrap[/] today"
    assert found["ia3"]["error"].startswith("out of memory")
    assert "became" in found["diverges"]["error"]
    assert "at step" in found["diverges"]["error"]
    assert "oft failed: RuntimeError: no [red]wrap[/] today" in done.stdout
    assert not list((tmp_path / "o" / "diverges").rglob("predictions.jsonl"))
    assert "Traceback" in (tmp_path / "o" / "oft" / "seed-0" / "traceback.txt").read_text()
    # When the methods work again, a second run trains what failed and keeps the rest, without checkpoints that a run
    # which was killed at its end has left.
    monkeypatch.undo()
    left = tmp_path / "o" / "lora" / "seed-0" / "checkpoints" / "checkpoint-6"
    left.mkdir(parents=True)
    again = adapterzoo("run", write_recipe(methods.replace("1e30", "1e-3")), "--out", tmp_path / "o")
    assert again.exit_code == 0, again.output
    assert "lora: exact match" in again.stderr
    assert again.stderr.count("(already done)") == 3
    assert not left.parent.exists()


def test_another_recipes_folder_is_left_alone(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "o"
    assert adapterzoo("run", write_recipe("lora", steps="2"), "--out", out).exit_code == 0
    before = (out / "lora" / "seed-0" / "result.json").read_bytes()
    steps = adapterzoo("run", write_recipe("lora", steps="3"), "--out", out)
    assert steps.exit_code == 2
    assert "holds the results of another recipe (train.steps: 2 there, 3 here)" in steps.stderr
    option = adapterzoo("run", write_recipe("{name: lora, r: 4}", steps="2"), "--out", out)
    assert option.exit_code == 2
    assert "holds 'lora' with other settings" in option.stderr
    assert "r: 8" in (out / "recipe.yaml").read_text(), "a refused run leaves no trace"
    seed = adapterzoo("run", write_recipe("{name: lora, r: 4}", steps="2"), "--out", out, "--seed", "7")
    assert seed.exit_code == 2, "another seed would stand in the same row"
    assert "holds 'lora' with other settings" in seed.stderr
    more = adapterzoo("run", write_recipe("lora, ia3", steps="2"), "--out", out)
    assert more.exit_code == 0, "more methods are the same recipe"
    assert (out / "lora" / "seed-0" / "result.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert adapterzoo("run", write_recipe("lora"), "--out", tmp_path / "mine").exit_code == 2


def test_a_model_with_the_same_name_and_other_weights_is_another_recipe(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    arguments = ("run", write_recipe("ia3", steps="1"), "--set", f"model.name={folder}", "--out", tmp_path / "o")
    assert adapterzoo(*arguments).exit_code == 0
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save_pretrained(folder)
    again = adapterzoo(*arguments)
    assert again.exit_code == 2
    assert "holds the results of another recipe (model.weights:" in again.stderr


def test_a_method_that_is_not_in_the_recipe_can_be_named(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora, {name: lora, label: small, r: 2}", steps="2")
    assert adapterzoo("run", recipe, "-m", "small", "-m", "oft", "--out", tmp_path / "o").exit_code == 0
    assert {label for label, row in rows(tmp_path / "o", adapterzoo).items() if row["method"]} == {"small", "oft"}
    unknown = adapterzoo("run", recipe, "-m", "smal")
    assert unknown.exit_code == 2
    assert "Did you mean 'small'?" in unknown.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_run_keeps_its_finished_cells_and_can_go_on(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe, out = write_recipe("lora, ia3, oft", steps="40"), tmp_path / "o"
    command = [sys.executable, "-m", "adapterzoo", "run", str(recipe), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=dict(os.environ))
    first = out / "lora" / "seed-0" / "result.json"
    deadline = time.monotonic() + 120
    while not first.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = first.read_bytes()
    done = adapterzoo("run", recipe, "--out", out)
    assert done.exit_code == 0
    assert first.read_bytes() == before
    assert {row["status"] for row in rows(out, adapterzoo).values()} == {"ok"}


def test_each_set_of_overrides_has_its_own_default_output_folder(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe("ia3", steps="1")
    assert adapterzoo("run", recipe).exit_code == 0
    assert adapterzoo("run", recipe, "--set", "train.steps=2").exit_code == 0
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert folders[0] == "tiny"
    assert folders[1].startswith("tiny-")


def test_peak_memory_is_that_of_the_cell_not_of_the_process() -> None:
    from adapterzoo.machine.memory import PeakMemory

    def peak(megabytes: int) -> int:
        with PeakMemory() as measured:
            block = bytearray(megabytes * 2**20)
            block[:: 2**12] = b"x" * len(block[:: 2**12])
        return measured.bytes

    small, large, small_again = peak(1), peak(600), peak(1)
    assert large - small > 400 * 2**20
    assert abs(small_again - small) < 100 * 2**20


FAULTS = """
import resource, torch
from adapterzoo.machine.memory import giving_back_freed_memory, keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(2**20) for _ in range(10)]  # 40 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
KEEP
with giving_back_freed_memory():  # as while a model is loaded
    print(faults())
print(faults(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
@pytest.mark.parametrize("keep", ["assert keep_freed_memory()", ""], ids=["run", "evaluate"])
def test_freed_memory_is_kept_for_the_next_tensor(keep: str) -> None:
    """A command that only measures or answers was half as slow again after the model was loaded."""
    code = FAULTS.replace("KEEP", keep)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back, _, faults = map(int, done.stdout.split())
    assert given_back > 100_000, "a base model that is loaded would take several times its size"
    # Not zero: the system itself may take back pages that were not used for a while.
    assert faults < 10_000, "with new memory for each tensor there are 200,000"


def test_python_functions_run_and_compare_like_the_commands(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    import adapterzoo

    comparison = adapterzoo.run(write_recipe("ia3"), tmp_path / "o", overrides=["train.steps=2"])
    assert [row.label for row in comparison.rows if row.method] == ["ia3"]
    assert comparison.frame().loc["ia3", "trainable_params"] > 0
    assert str(adapterzoo.compare(tmp_path / "o")) == str(comparison)


def test_another_version_of_a_plugin_is_another_method(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Seeds of two versions are not joined into a row, and one version does not resume a checkpoint of the other."""
    from adapterzoo.prepare import plan
    from adapterzoo.running import worker

    recipe, sets = write_recipe("lora"), ("--set", "train.save_steps=2", "--set", "evaluate.base=false")
    version, measure = "1.0", worker.measure
    monkeypatch.setattr(plan, "version_of", lambda package: f"{package} {version}")

    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(worker, "measure", killed)
    adapterzoo("run", recipe, *sets, "--out", tmp_path / "o")
    assert list((tmp_path / "o/lora/seed-0/checkpoints").glob("checkpoint-6"))
    version = "2.0"
    steps: list[int] = []
    monkeypatch.setattr(worker, "measure", measure)
    monkeypatch.setattr(
        "adapterzoo.running.progress.PlainReporter.step", lambda self, label, seed, *at: steps.append(at[0])
    )
    anew = adapterzoo("run", recipe, *sets, "--out", tmp_path / "o")
    assert anew.exit_code == 0
    assert (
        "lora, seed 0: the checkpoints are of other settings or packages, or checkpoints/settings.json" in anew.stderr
    )
    assert steps == [1, 2, 3, 4, 5, 6]
    version = "3.0"
    for more in ((), ("--seed", "1")):
        refused = adapterzoo("run", recipe, *sets, *more, "--out", tmp_path / "o")
        assert refused.exit_code == 2
        text = " ".join(refused.stderr.split())
        assert "holds 'lora' with other settings (plugin: 'adapterzoo 2.0' there, 'adapterzoo 3.0' here)" in text
    second = adapterzoo("run", recipe, *sets, "--seed", "1", "--out", tmp_path / "other")
    assert second.exit_code == 0
    table = json.loads(adapterzoo("compare", tmp_path / "o", tmp_path / "other", "--format", "json").stdout)
    assert sorted((row["label"], row["plugin"]) for row in table["rows"]) == [
        ("lora (o)", "adapterzoo 2.0"), ("lora (other)", "adapterzoo 3.0"),
    ]  # fmt: skip


def test_a_damaged_adapter_is_named_and_trained_again(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe, out = write_recipe("lora, ia3", steps="2"), tmp_path / "o"
    assert adapterzoo("run", recipe, "--out", out).exit_code == 0
    folder = out / "lora" / "seed-0" / "adapter"
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, content in whole.items():
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 1
        (folder / name).write_bytes(damaged)
        message = f"lora: seed-0/adapter/{name} is not what the run wrote"
        assert message in " ".join(adapterzoo("compare", out).stdout.split())
        assert rows(out, adapterzoo)["lora"]["damaged"] == [f"seed-0/adapter/{name}"]
        (folder / name).write_bytes(content)
    assert rows(out, adapterzoo)["lora"]["damaged"] == []
    (folder / "README.md").write_text("a model card of one's own")
    assert "again" not in adapterzoo("run", recipe, "--out", out).stderr
    (folder / "adapter_model.safetensors").unlink()
    ia3 = (out / "ia3" / "seed-0" / "result.json").read_bytes()
    again = adapterzoo("run", recipe, "--out", out)
    assert again.exit_code == 0
    message = "lora, seed 0: adapter/adapter_model.safetensors is not what the run wrote, so the cell is trained again"
    assert message in again.stderr
    assert (folder / "adapter_model.safetensors").read_bytes() == whole["adapter_model.safetensors"]
    assert (out / "ia3" / "seed-0" / "result.json").read_bytes() == ia3
    # If the whole adapter was removed, perhaps to save space, it is not trained again.
    shutil.rmtree(folder)
    kept = adapterzoo("run", recipe, "--out", out)
    assert kept.stderr.count("(already done)") == 4
    assert rows(out, adapterzoo)["lora"]["damaged"] == []


@pytest.mark.parametrize("name", ["base", "base-4-shot"])
def test_no_method_can_have_the_label_of_the_untouched_base(name: str, plugin_folder: Path) -> None:
    from third_party import METHOD, plugin

    from adapterzoo.methods.registry import Registry

    zoo = Registry([plugin("mine", plugin_folder, METHOD.replace("NAME", name))])
    assert name not in zoo
    assert f"Mine.name is '{name}': that is the label of the untouched base" in zoo.broken[0].reason


def test_no_recipe_can_use_the_label_of_the_untouched_base(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    for label in ("base", "Base", "base-4-shot"):
        done = adapterzoo("check", write_recipe(f"{{name: lora, label: {label}}}"))
        assert done.exit_code == 2
        assert f"the label '{label}' is taken by the untouched base" in done.stderr


def test_results_stay_in_place_if_a_plugin_changes_the_working_directory(
    write_recipe: Callable[..., Path], adapterzoo_process: Callable[..., Any], adapterzoo: Callable[..., Result],
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from adapterzoo.methods.registry import registry

    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    shutil.copytree(tiny_model, tmp_path / "here" / "model")
    monkeypatch.chdir(tmp_path / "here")
    kind, wrap = type(registry()["oft"]), type(registry()["oft"]).wrap

    def changes_directory(self: object, model: Any, *arguments: Any) -> Any:
        os.chdir(tmp_path / "there")
        model.get_input_embeddings().weight.data.add_(1)  # so that the base model has to be loaded again
        return wrap(self, model, *arguments)

    monkeypatch.setattr(kind, "wrap", changes_directory)
    recipe = write_recipe("oft, ia3, lora", steps="1")
    done = adapterzoo("run", recipe, "--set", "model.name=./model", "--out", "o")
    assert done.exit_code == 0, done.output
    assert not list((tmp_path / "there").iterdir())
    assert {row["status"] for row in rows(tmp_path / "here" / "o", adapterzoo).values()} == {"ok"}
    assert {"oft", "ia3", "lora"} <= set(rows(tmp_path / "here" / "o", adapterzoo))
    assert "lora" in done.stdout


def test_the_same_model_by_another_path_is_the_same_recipe(
    tiny_model: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(tiny_model, tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "copy")
    (tmp_path / "below").mkdir()
    out, recipe = tmp_path / "out", write_recipe("lora", "seeds: [0]\n", steps="1", shots="0")
    sets = ("--set", "evaluate.base=false", "--out", out)
    first = adapterzoo("run", recipe, *sets)
    assert first.exit_code == 0, first.output
    assert "1 cell, results in" in " ".join(first.stderr.split())
    monkeypatch.chdir(tmp_path / "below")
    again = adapterzoo("run", recipe, "--set", "model.name=../link", *sets)
    assert again.exit_code == 0, again.output
    assert "training" not in again.stderr, "the cell is finished"
    assert f"name: {(tmp_path / 'copy').resolve()}" in (out / "recipe.yaml").read_text(), (
        "so that it runs from anywhere"
    )
