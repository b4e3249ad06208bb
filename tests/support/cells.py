"""Wrap, train and save single cells of a prepared recipe on the tiny model, for tests of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from safetensors.torch import load_file

from adapterzoo.cli import main
from adapterzoo.methods.registry import registry
from adapterzoo.model import base
from adapterzoo.prepare.prepare import prepare
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.training.method_part import MethodPart
from adapterzoo.training.train import Trained, train_adapter


class StopError(Exception):
    """Stops a training from inside, as a user or a crash would."""


def stop_at_five(step: int, *_: object) -> None:
    """Stop a training when its fifth step is done."""
    if step == 5:
        raise StopError


class Bench:
    """A prepared recipe, whose cells a test can wrap, train and save one by one."""

    def __init__(self, recipe: Path, *overrides: str) -> None:
        self.recipe = load_recipe(recipe, overrides)
        self.prepared: Prepared = prepare(self.recipe)
        self.cells = {cell.label: cell for cell in self.prepared.method_cells}

    def load(self, quantization: str) -> base.Base:
        return base.load(self.recipe.model, self.prepared.location, quantization, self.recipe.data.max_length)

    def method(self, label: str) -> tuple[Any, Any, Any]:
        """Return the method of a cell, its options and its context."""
        cell = self.cells[label]
        method = registry()[cell.method]
        return method, method.options(**cell.options), self.prepared.context(cell)

    @contextmanager
    def wrapped(self, label: str, loaded: base.Base) -> Iterator[Any]:
        from transformers import set_seed

        method, options, context = self.method(label)
        with loaded.borrow() as model:
            set_seed(self.cells[label].seed)
            yield method.wrap(model, options, context)

    def train(self, label: str, model: Any, folder: Path, **changes: Any) -> Trained:
        method, options, context = self.method(label)
        cell = self.cells[label]
        own = {name: changes.pop(name) for name in ("callbacks", "optimizer") if name in changes}
        part = replace(MethodPart.of(method, model, options, context), **own)
        settings: dict[str, Any] = {"learning_rate": cell.learning_rate, "seed": cell.seed, "folder": folder}
        return train_adapter(model, self.prepared.encoded, self.recipe.train, part=part, **{**settings, **changes})

    def adapter(self, label: str, loaded: base.Base, folder: Path, **changes: Any) -> dict[str, Any]:
        """Train a cell, and return the saved tensors by name."""
        with self.wrapped(label, loaded) as model:
            self.train(label, model, folder / "checkpoints", **changes)
            self.method(label)[0].save(model, folder / "adapter")
        return load_file(folder / "adapter" / "adapter_model.safetensors")


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Assert that two adapters, or two models, have the same tensors, bit for bit."""
    assert first.keys() == second.keys()
    different = [name for name in first if not first[name].equal(second[name])]
    assert not different, f"{len(different)} of {len(first)} tensors differ, like {different[0]}"


def saved_weights(folder: Path) -> dict[str, Any]:
    """Return all tensors of the safetensors files in a folder, by name."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def exit_code(arguments: Sequence[str]) -> int:
    """Run the command line in this process; return its exit code."""
    return CliRunner().invoke(main, list(arguments)).exit_code
