"""Check that every mistake gives a clear error and exit code 2 before any weights are loaded."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from refusals import refused

pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.mark.parametrize("command", ["run", "check"])
def test_mistakes_in_the_recipe(
    command: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    refused(adapterzoo(command, tmp_path / "none.yaml"), "none.yaml: there is no such file")
    (tmp_path / "x.yaml").write_text("a: [")
    refused(adapterzoo(command, tmp_path / "x.yaml"), "x.yaml:1: this is not YAML")
    refused(adapterzoo(command, write_recipe("")), "'methods' is empty")
    refused(adapterzoo(command, write_recipe("lroa")), "unknown method 'lroa'. Did you mean 'lora'?")
    refused(adapterzoo(command, write_recipe("lora", "stepz: 3\n")), "unknown key 'stepz'")
    refused(adapterzoo(command, write_recipe("lora", steps="-1")), "'train.steps' is -1", "greater than or equal to 1")
    rate = ("--set", "train.learning_rate=quick")
    refused(adapterzoo(command, write_recipe("lora"), *rate), "must be a positive number, or auto, not 'quick'")
    refused(adapterzoo(command, write_recipe("lora"), "-m", "lroa"), "--method lroa: unknown method")


def test_mistakes_in_the_data(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    def run(content: str, *overrides: str) -> Result:
        (tmp_path / "rows.csv").write_text(content)
        sets = [part for override in ("data.source=rows.csv", *overrides) for part in ("--set", override)]
        return adapterzoo("run", write_recipe("lora"), *sets)

    refused(run("verb,oast\nx,y\n"), "rows.csv:1: there is no column 'past'. Did you mean 'oast'?", "data.columns")
    refused(run(""), "it is empty")
    refused(run("verb,past\n"), "has column names but no rows")
    refused(run("verb,past\ngo,\nbe,\n"), "all 2 rows have an empty 'past'")
    many = "verb,past\n" + "".join(f"go{i},went{i}\n" for i in range(50))
    refused(run(many, "data.max_length=5"), "data.max_length: max_length = 5 leaves nothing to learn in all")
    refused(run("verb,past\ngo,went\n"), "1 different prompts are too few")


def test_options_that_do_not_fit_the_model(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    methods = (
        "{name: lora, target_modules: [q_proj, v_prj]}, {name: oft, oft_block_size: 48}, {name: adalora, tinit: 9}"
    )
    refused(
        adapterzoo("run", write_recipe(methods)),
        "lora: target_modules: 'v_prj' matches no layer. Did you mean 'v_proj'?",
        "oft: oft_block_size: 48 does not divide 64",
        "Choose from: 2, 4, 8, 16, 32, 64.",
        "adalora: tinit, tfinal: 9 + 2 steps leave none of the 6 steps",
    )


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all_linear", "'all_linear' does not match the whole name of any layer. Did you mean 'all-linear'?"),
        ("'*'", "'*' does not match the whole name of any layer"),
        ("[]", "target_modules: is empty. Choose from: down_proj, gate_proj, k_proj"),
    ],
)
def test_target_modules_that_match_nothing(
    targets: str, expected: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    for method in ("lora", "oft"):
        refused(adapterzoo("check", write_recipe(f"{{name: {method}, target_modules: {targets}}}")), expected)


def gpt2_recipe(methods: str, write_recipe: Callable[..., Path], tiny_model: Path, folder: Path, **config: Any) -> Path:
    """Return a recipe for a GPT-2, which has learned positions, and linear layers of a class of its own."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    sizes = {"vocab_size": len(tokenizer), "n_embd": 16, "n_layer": 1, "n_head": 2}
    for part in (GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, **config)), tokenizer):
        part.save_pretrained(folder)
    recipe = write_recipe(methods, name="gpt2.yaml")
    recipe.write_text(recipe.read_text().replace(str(tiny_model), str(folder)))
    return recipe


def test_layers_that_a_method_does_not_know(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tiny_model: Path, tmp_path: Path
) -> None:
    """Half of PEFT's methods refuse the layers of GPT-2, with TypeError."""
    done = adapterzoo("check", gpt2_recipe("lora, loha, lokr, oft", write_recipe, tiny_model, tmp_path / "gpt2"))
    refused(done, *(f"{name}: options: Target module" for name in ("loha", "lokr", "oft")))
    assert "error: lora" not in done.stderr


@pytest.mark.parametrize("positions", [80, 79])
def test_virtual_tokens_that_the_model_has_no_positions_for(
    positions: int,
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    """The row of the method would fail with an index that is out of range."""
    methods = "lora, {name: prefix-tuning, num_virtual_tokens: 48}"
    recipe = gpt2_recipe(methods, write_recipe, tiny_model, tmp_path / "gpt2", n_positions=positions)
    done = adapterzoo("check", recipe, "--set", "data.max_length=32", "--set", "evaluate.shots=0")
    if positions == 80:
        assert done.exit_code == 0, done.stderr
    else:
        what = "with 48 more in front, the longest row has 80 tokens, and the model has learned 79 positions. Lower it"
        refused(done, f"prefix-tuning: num_virtual_tokens: {what}")


def test_options_that_would_be_ignored(write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]) -> None:
    methods = (
        "{name: oft, eps: 0.1, use_cayley_neumann: false, num_cayley_neumann_terms: 3}, "
        "{name: p-tuning, encoder_dropout: 0.5}, {name: prefix-tuning, encoder_hidden_size: 8}, "
        "{name: oft, label: coft, coft: true, eps: 0.1}"
    )
    done = adapterzoo("check", write_recipe(methods))
    refused(
        done,
        "oft: eps: has no effect: it is for coft, which is false. Leave it out.",
        "oft: num_cayley_neumann_terms: has no effect: it is for use_cayley_neumann, which is false.",
        "p-tuning: encoder_dropout: has no effect: it is for an LSTM, and the network is an MLP.",
        "prefix-tuning: encoder_hidden_size: has no effect: it is for prefix_projection, which is false.",
    )
    assert "error: coft" not in done.stderr


def test_a_pattern_for_more_than_a_method_adapts(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    """PEFT's methods adapt the head if a pattern names it. A method of layers left it out without a word."""
    pattern = "target_modules: '.*(q_proj|lm_head)'"
    methods = f"{{name: lora, {pattern}}}, {{name: lora-scratch, {pattern}}}"
    done = adapterzoo("check", write_recipe(methods))
    refused(
        done, "lora-scratch: target_modules: '.*(q_proj|lm_head)' also matches lm_head, which lora-scratch does not"
    )
    assert "error: lora: " not in done.stderr


def test_unknown_names_for_the_trainer(write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]) -> None:
    sets = ("--set", "train.optimizer=adamw_troch", "--set", "train.loggers=[wandbb]")
    refused(
        adapterzoo("run", write_recipe("lora"), *sets),
        "train.optimizer: transformers has no 'adamw_troch'. Did you mean 'adamw_torch'?",
        "train.loggers: transformers has no 'wandbb'. Did you mean 'wandb'?",
    )


def test_settings_that_do_not_fit_the_model_or_the_data(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora", shots="25")
    refused(adapterzoo("check", recipe), "evaluate.shots: 25 examples", "24 training rows")
    refused(adapterzoo("check", write_recipe("lora", shots="20")), "evaluate.shots: with the examples in front")
    refused(
        adapterzoo("check", write_recipe("lora"), "--set", "train.warmup=6"),
        "train.warmup: a warmup of 6 leaves none of the 6 steps",
    )
    sets = ("--set", "train.eval_steps=2", "--set", "data.split={train: 0.8, validation: 0, test: 0.2}")
    refused(adapterzoo("check", write_recipe("lora"), *sets), "train.eval_steps: there are no validation rows")
    (tmp_path / "long.csv").write_text("verb,past\n" + "".join(f"{i}{'go' * 200},went{i}\n" for i in range(30)))
    sets = ("--set", "data.source=long.csv", "--set", "data.max_length=1000")
    refused(adapterzoo("check", write_recipe("lora", shots="0"), *sets), "data.max_length: the longest row has")
    refused(adapterzoo("run", write_recipe("lora"), "--out", "/dev/null/x"), "--out /dev/null/x: cannot be written")


def test_models_that_cannot_be_loaded(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    refused(adapterzoo("run", write_recipe("lora"), "--set", "model.name=smollm2-135"), "Did you mean 'smollm2-135m'?")
    missing = adapterzoo("run", write_recipe("lora"), "--set", "model.name=nobody/nothing")
    refused(missing, "model nobody/nothing: cannot be loaded", "HF_HUB_OFFLINE is set")
    (tmp_path / "empty").mkdir()
    refused(adapterzoo("run", write_recipe("lora"), "--set", f"model.name={tmp_path / 'empty'}"), "cannot be loaded")


def test_wrong_arguments(write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    assert adapterzoo("run").exit_code == 2
    assert adapterzoo("walk").exit_code == 2
    assert adapterzoo("run", write_recipe("lora"), "--seed", "-1").exit_code == 2
    refused(adapterzoo("methods", "lroa"), "unknown method. Did you mean 'lora'?")
    refused(adapterzoo("compare", tmp_path), "holds no results")


def test_debug_shows_the_traceback(adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    assert "Traceback" in adapterzoo("--debug", "run", tmp_path / "none.yaml").stderr


def test_a_pattern_that_tries_too_many_ways_is_stopped(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.methods import targets

    monkeypatch.setattr(targets, "MAX_PATTERN_SECONDS", 0.2)
    methods = ", ".join(f"{{name: {name}, target_modules: '([a-z0-9_.]+)+!'}}" for name in ("lora", "oft", "lora-fa"))
    refused(
        adapterzoo("check", write_recipe(methods)),
        "lora: target_modules: the pattern '([a-z0-9_.]+)+!' tries too many ways to divide a name",
        "oft: target_modules: the pattern",
        "lora-fa: target_modules: the pattern",
        "Give a simpler pattern, or a list of names.",
    )
    beyond = "{name: lora, target_modules: 'a{99999999999}'}"
    refused(adapterzoo("check", write_recipe(beyond)), "does not match the whole name of any layer")


def test_an_adapter_that_cannot_fit_is_refused(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    expected = ("lora: r: 20.5", "T parameters would be trained, and the model has", "Make the adapter smaller.")
    recipe = write_recipe("{name: lora, r: 9999999999}, {name: prompt-tuning, num_virtual_tokens: 99999999999}")
    refused(
        adapterzoo("check", recipe),
        *expected,
        "prompt-tuning: num_virtual_tokens: ",
        "this machine has",
    )
    tuned = ("--set", "tune={r: {values: [8, 9999999999]}}", "--set", "methods=[lora]")
    refused(adapterzoo("check", recipe, *tuned), "lora: tune: r 9999999999: r: 20.5", "T parameters would be trained")


def test_a_wrong_output_folder_is_found_before_the_data_and_the_model_are_read(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from adapterzoo.running import runner

    monkeypatch.setattr(runner, "prepare", lambda *_: pytest.fail("the run was prepared"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    recipe = write_recipe("lora")
    refused(adapterzoo("run", recipe, "--out", tmp_path / "full"), "is not empty and is not an output folder")
    refused(adapterzoo("run", recipe, "--out", "/dev/null/x"), "--out /dev/null/x: cannot be written: Not a directory")


def test_init_into_a_folder_that_is_not_there(
    adapterzoo: Callable[..., Result], tiny_data: Path, tmp_path: Path
) -> None:
    done = adapterzoo("init", tiny_data, "--out", tmp_path / "gone" / "recipe.yaml")
    refused(done, "recipe.yaml: there is no folder", "gone'. Make it first, or give another --out.")


def test_results_of_runs_with_overrides_are_named(adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "tiny-0123abcd").mkdir()
    (tmp_path / "tiny-0123abcd" / ".adapterzoo.json").write_text("{}")
    done = adapterzoo("compare", tmp_path / "tiny")
    refused(done, "tiny: there is no such folder.", f"Runs with --set have folders of their own: {tmp_path}/tiny-0123")
    assert "--set" not in adapterzoo("compare", tmp_path / "other").stderr


def test_many_problems_are_counted(write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]) -> None:
    done = adapterzoo("check", write_recipe(", ".join(["lroa"] * 150)))
    refused(done, "unknown method 'lroa'. Did you mean 'lora'?", "and 199 more problems")
    assert done.stderr.count("error: ") == 100


def test_a_full_disk_is_named_by_its_file(
    tmp_path: Path, adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.files import write_atomically
    from adapterzoo.recipe import reading

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(reading, "load_recipe", lambda *_: write_atomically(tmp_path / "out" / "note.json", "x"))
    (tmp_path / "out").mkdir()
    done = adapterzoo("run", tmp_path / "recipe.yaml")
    assert done.exit_code == 1
    assert " ".join(done.stderr.split()) == f"error: {tmp_path}/out/note.json: No space left on device"


def test_options_that_do_not_fit_are_found_before_the_weights_are_read(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.model import files

    monkeypatch.setattr(files, "fingerprint", lambda *_: pytest.fail("the weights were read"))
    done = adapterzoo("run", write_recipe("{name: lora, target_modules: [v_prj]}"))
    refused(done, "lora: target_modules: 'v_prj' matches no layer. Did you mean 'v_proj'?")
