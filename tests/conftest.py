"""Fixtures for tests that train in seconds: a tiny real model, a tiny recipe, and the command line."""

from __future__ import annotations

import os

# Use one thread, because a process that a test starts needs the second core. No test may ask a hub.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import METHODS, RECIPE, make_data, make_model


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are cores, because many tests wait for processes, browsers and servers."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs, because most tests compute on the CPU; only ``-m gpu`` uses them."""
    if "gpu" not in config.getoption("markexpr"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if hasattr(config, "workerinput"):  # one of several processes, which will need all libraries
        from adapterzoo.machine.memory import spare_imported_modules
        from adapterzoo.machine.quiet import quiet_libraries

        with quiet_libraries():
            spare_imported_modules()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU where there is none."""
    on_gpus = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpus:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpus:
            item.add_marker(pytest.mark.skip(reason="needs a GPU (make test-gpu)"))


@pytest.fixture(scope="module", autouse=True)
def _spare_objects_of_earlier_modules() -> None:
    """Exclude what is in memory from garbage collection: tests collect often, and a tenth of their time went there."""
    from adapterzoo.machine.memory import spare_present_objects

    spare_present_objects()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a two-layer Llama with a tokenizer of bytes, saved by transformers."""
    return make_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a two-layer BERT with a WordPiece tokenizer of letters, saved by transformers."""
    import string

    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny-bert")
    signs = string.ascii_letters + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{sign}" for sign in signs)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.1,
        pad_token_id=0,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "verbs.csv")


@pytest.fixture
def write_recipe(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a recipe for the tiny model: ``write_recipe("lora, ia3", "extra: lines")``."""

    def write(methods: str = ", ".join(METHODS), extra: str = "", name: str = "recipe.yaml", **changes: str) -> Path:
        text = RECIPE.format(model=tiny_model, data=tiny_data, methods=methods) + extra
        for old, new in changes.items():
            assert f"  {old}: " in text or f"\n{old}: " in text
            lines = [
                f"{line.partition(old)[0]}{old}: {new}" if line.strip().startswith(f"{old}:") else line
                for line in text.splitlines()
            ]
            text = "\n".join(lines) + "\n"
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def adapterzoo() -> Callable[..., Result]:
    """Return the command line as a function in this process: ``adapterzoo("run", recipe, "--out", folder)``."""
    from adapterzoo.cli import main

    def invoke(*arguments: Any) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return invoke


@pytest.fixture
def adapterzoo_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return the command line as a function that starts a new process."""

    def invoke(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "adapterzoo", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})

    return invoke


@pytest.fixture
def plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder on the import path for plugins that a test writes; forget their modules afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("third_party_")]:
        del sys.modules[name]


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test fail if it loads weights."""
    from adapterzoo.model import base

    monkeypatch.setattr(base, "load", lambda *_: pytest.fail("weights were loaded"))
