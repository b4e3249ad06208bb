"""Adapters and checkpoints from strangers, whose digests are right: none runs code or loads another model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench, StopError, stop_at_five
from click.testing import Result
from refusals import refused

from adapterzoo.digests import file_digest
from adapterzoo.errors import AdapterzooError
from adapterzoo.methods.contract import Context
from adapterzoo.methods.registry import registry
from adapterzoo.results.reading import read_result
from adapterzoo.results.result import result_text
from adapterzoo.training import checkpoints

Bomb = Callable[[Path], None]


@pytest.fixture
def out(write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path) -> Path:
    """Return an output folder with an adapter of lora."""
    settings = ("--set", "evaluate.base=false", "--jobs", "0")
    done = adapterzoo("run", write_recipe("lora", steps="1", shots="0"), *settings, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    return tmp_path / "out"


def sign(cell: Path) -> None:
    """Write the digests of the adapter's files as they are now, as a stranger would."""
    path, adapter = cell / "result.json", cell / "adapter"
    files = {file.relative_to(adapter).as_posix(): file_digest(file) for file in adapter.rglob("*") if file.is_file()}
    path.write_text(result_text(replace(read_result(path), adapter_files=files)))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def module(canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module that makes the canary when it is imported."""
    (tmp_path / "stranger.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "stranger"


def test_an_adapter_of_a_stranger_answers_or_is_refused(
    out: Path, adapterzoo: Callable[..., Result], canary: Path, bomb: Bomb, module: str
) -> None:
    cell = out / "lora/seed-0"
    adapter = cell / "adapter"
    asked = ("generate", out, "-m", "lora", "--prompt", "go", "--max-new-tokens", "2")
    answer = adapterzoo(*asked).stdout
    # These have no effect: pickles beside the weights, the name of another base model, a tokenizer with code.
    for name in ("adapter_model.bin", "pytorch_model.bin", "training_args.bin", "adapter.pkl"):
        bomb(adapter / name)
    change(adapter / "adapter_config.json", base_model_name_or_path="stranger/model", revision="evil")
    change(adapter / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, f"{module}.Tokenizer"]})
    own_model = {"AutoConfig": f"{module}.Config", "AutoModelForCausalLM": f"{module}.Model"}
    (adapter / "config.json").write_text(json.dumps({"model_type": "llama", "auto_map": own_model}))
    shutil.copy(canary.parent / "stranger.py", adapter)
    sign(cell)
    done = adapterzoo(*asked)
    assert done.exit_code == 0, done.output
    assert done.stdout == answer
    # These are refused before PEFT reads them.
    change(adapter / "adapter_config.json", megatron_config={"a": 1}, megatron_core=module)
    sign(cell)
    refused(adapterzoo(*asked), "adapter_config.json has megatron_config = {'a': 1}, which its method does not set")
    change(adapter / "adapter_config.json", megatron_config=None, megatron_core="megatron.core")
    (adapter / "adapter_model.safetensors").unlink()
    sign(cell)
    refused(adapterzoo(*asked), "cannot be loaded")
    whole = read_result(cell / "result.json")
    (adapter / "adapter_config.json").unlink()
    os.mkfifo(adapter / "adapter_config.json")  # reading it would wait for ever
    sign(cell)
    refused(adapterzoo(*asked), "adapter_config.json: is not an ordinary file.")
    (cell / "result.json").write_text(result_text(replace(whole, quantization="q")))
    refused(adapterzoo(*asked), "was trained on the quantization 'q', which there is not.")
    (cell / "result.json").write_text(result_text(replace(whole, method="os.system", plugin="evil 1.0")))
    refused(adapterzoo(*asked), "its method 'os.system' is not installed. The run had it from evil 1.0.")


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "SHADOW", "shadow_model": "stranger/model"},
        {"peft_type": "XLORA", "adapters": {"0": "stranger/adapter"}, "hidden_size": 64},
        {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "TEXT", "tokenizer_name_or_path": "stranger/tokenizer"},
        {"peft_type": "OWN"},
        {"auto_mapping": {"base_model_class": "Model", "parent_library": "stranger"}},
        {"megatron_config": {}, "megatron_core": "stranger"},
        {"tokenizer_name_or_path": "stranger/tokenizer", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"prompt_tuning_init_state_dict_path": "/etc/passwd"},
        {"layer_replication": [[0, 2], [0, 2]]},
    ],
    ids=lambda changes: next(iter(changes)) + "-" + str(next(iter(changes.values())))[:9],
)
def test_a_configuration_that_names_code_or_other_models_is_refused(
    changes: dict[str, Any], module: str, tmp_path: Path
) -> None:
    method: Any = registry()["lora"]
    options, context, model = method.options(), Context("none", 1, 1, 0), torch.nn.Module()
    saved = method.peft_config(model, options, context).to_dict()
    (tmp_path / "adapter_config.json").write_text(json.dumps({**saved, **changes}, default=list))
    with pytest.raises(AdapterzooError, match=r"adapter_config.json has \w+ = .*, which its method does not set"):
        method.load(model, tmp_path, options, context)


def test_an_adapter_beside_a_whole_model_is_refused(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    bench = Bench(write_recipe("full"))
    loaded = bench.load("none")
    method, options, context = bench.method("full")
    with loaded.borrow() as model:
        method.save(method.wrap(model, options, context), tmp_path / "full")
    (tmp_path / "full/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "megatron_core": "stranger"}))
    with loaded.borrow() as model, pytest.raises(AdapterzooError, match="the configuration of an adapter"):
        method.load(model, tmp_path / "full", options, context)


def test_the_pickles_of_a_checkpoint_run_no_code(
    write_recipe: Callable[..., Path], bomb: Bomb, canary: Path, tmp_path: Path
) -> None:
    """transformers writes the states of optimizer, scheduler and random generators as pickles."""
    bench = Bench(write_recipe("lora"), "train.save_steps=4")
    loaded = bench.load("none")
    with pytest.raises(StopError):
        bench.adapter("lora", loaded, tmp_path / "whole", on_step=stop_at_five)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        checkpoint = Path(shutil.copytree(tmp_path / "whole", tmp_path / name)) / "checkpoints/checkpoint-4"
        for file in (name, "pytorch_model.bin", "adapter_model.bin", "training_args.bin"):
            bomb(checkpoint / file)
        checkpoints.complete(checkpoint, seconds=1.0)
        assert checkpoints.newest(checkpoint.parent, wanted=True)
        reason = "Weights only load failed"  # or the training begins anew, without this checkpoint
        try:
            bench.adapter("lora", loaded, tmp_path / name)
        except Exception as error:
            reason = str(error)
        assert "Weights only load failed" in reason, name
        assert not canary.exists(), name


def test_the_manifest_of_a_checkpoint_names_no_file_outside_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe")
    (folder / "optimizer.pt").write_bytes(b"x")
    for name in ("../pipe", str(tmp_path / "pipe"), "..\\pipe"):
        checkpoints.complete(folder, seconds=1.0)
        manifest = json.loads((folder / checkpoints.MANIFEST).read_text())
        manifest.pop("digest")
        manifest["files"][name] = "0" * 32
        (folder / checkpoints.MANIFEST).write_text(json.dumps({**manifest, "digest": checkpoints._digest(manifest)}))
        assert checkpoints.newest(tmp_path, wanted=True) is None  # and does not wait for the pipe
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(b"x")
