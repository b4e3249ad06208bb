"""Methods whose saved adapters answer differently in another process, in another place or later."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import random
import tempfile
import time
import zlib
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

from adapterzoo import Context

from . import Wrong
from .sound import Gains, LowRank, LowRankOptions, Projected, adapter_layers, on

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
DRAWN: dict[tuple[int, ...], Any] = {}


class HashSeed(Projected):
    name = "wrong-hash-seed"
    summary = "seeds the frozen A with hash() of a text"

    def seed_of(self, like: Any) -> int:
        return hash(f"projection of {like.shape[1]}") % 2**31


class ProcessSeed(Projected):
    name = "wrong-process-seed"
    summary = "seeds the frozen A with the process id"

    def seed_of(self, like: Any) -> int:
        return os.getpid()


class DateSeed(Projected):
    name = "wrong-date-seed"
    summary = "seeds the frozen A with today's date"

    def seed_of(self, like: Any) -> int:
        return date.today().toordinal()


class ClockSeed(Projected):
    name = "wrong-clock-seed"
    summary = "seeds the frozen A with the hour"

    def seed_of(self, like: Any) -> int:
        return int(time.time() // 3600)


class FolderSeed(Projected):
    name = "wrong-working-folder-seed"
    summary = "seeds the frozen A with the working folder"

    def seed_of(self, like: Any) -> int:
        return zlib.crc32(str(Path.cwd()).encode())


class ThreadSeed(Projected):
    name = "wrong-thread-seed"
    summary = "seeds the frozen A with the number of threads"

    def seed_of(self, like: Any) -> int:
        import torch

        return int(torch.get_num_threads())


class InitialSeed(Projected):
    name = "wrong-initial-seed"
    summary = "seeds the frozen A with torch.initial_seed()"

    def seed_of(self, like: Any) -> int:
        import torch

        return int(torch.initial_seed())


class ObjectSeed(Projected):
    name = "wrong-object-seed"
    summary = "seeds the frozen A with the method's object id"

    def seed_of(self, like: Any) -> int:
        return id(self) % 2**31


class DrawnAgain(Projected):
    name = "wrong-drawn-again"
    summary = "load() draws a new frozen A from the global generator"

    def drawn(self, like: Any) -> Any:
        import torch

        return torch.randn_like(like) / like.shape[1] ** 0.5


class PythonRandom(Projected):
    name = "wrong-python-random"
    summary = "seeds the frozen A with Python's generator"

    def seed_of(self, like: Any) -> int:
        return random.getrandbits(31)


class SetOrder(Projected):
    name = "wrong-set-order"
    summary = "orders the ranks of the frozen A by a set of texts"

    def drawn(self, like: Any) -> Any:
        order = [int(text) for text in {str(row) for row in range(len(like))}]
        return super().drawn(like)[order]


class CountedSeed(Projected):
    name = "wrong-counted-seed"
    summary = "seeds each frozen A with a counter of this process"
    counter: ClassVar[Any] = itertools.count()

    def seed_of(self, like: Any) -> int:
        return int(next(self.counter))


class RememberedProjection(Projected):
    name = "wrong-remembered-projection"
    summary = "keeps the frozen A in a dict of the module"

    def drawn(self, like: Any) -> Any:
        import torch

        return DRAWN.setdefault(tuple(like.shape), torch.randn_like(like) / like.shape[1] ** 0.5).clone()


class EnvironmentSeed(Projected):
    name = "wrong-environment-seed"
    summary = "keeps the seed of the frozen A in os.environ"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        os.environ["WRONG_SEED"] = str(context.seed + 1)
        return super().wrap(model, options, context)

    def seed_of(self, like: Any) -> int:
        return int(os.environ.get("WRONG_SEED", "0"))


class RecipeSeed(Projected):
    name = "wrong-recipe-seed"
    summary = "keeps the recipe's seed on the method; load() takes 0"
    seed = 0

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        self.seed = context.seed
        return super().wrap(model, options, context)

    def seed_of(self, like: Any) -> int:
        return self.seed


class TemporaryFile(Projected):
    name = "wrong-temporary-file"
    summary = "keeps the frozen A in a temporary file of the process"
    folder: ClassVar[Any] = None

    def drawn(self, like: Any) -> Any:
        import torch

        cls = type(self)
        cls.folder = cls.folder or tempfile.TemporaryDirectory()
        file = Path(cls.folder.name) / f"{tuple(like.shape)}.pt"
        if not file.exists():
            torch.save(torch.randn_like(like) / like.shape[1] ** 0.5, file)
        return torch.load(file)


class LastOptions(LowRank):
    name = "wrong-last-options"
    summary = "load() takes the options of the last wrap(), not of the file"
    last = LowRankOptions()

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        self.last = options
        return super().wrap(model, options, context)

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        loaded = super().load(model, folder, options, context)
        for layer in adapter_layers(loaded):
            layer.scale = self.last.alpha / layer.options.r
        return loaded


class DefaultOptions(LowRank):
    name = "wrong-default-options"
    summary = "load() takes the default alpha, not the one of the training"

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        return super().load(model, folder, options.model_copy(update={"alpha": LowRankOptions().alpha}), context)


class NoSeedAtLoad(Projected):
    name = "wrong-no-seed-at-load"
    summary = "seeds the frozen A from the number of steps in wrap(), and load() has a fixed number"
    steps = 0

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        self.steps = context.total_steps
        return super().wrap(model, options, context)

    def seed_of(self, like: Any) -> int:
        return self.steps


class AbsolutePath(LowRank):
    name = "wrong-absolute-path"
    summary = "the config has the absolute path of the weights"

    def save(self, model: Any, folder: Path) -> None:
        super().save(model, folder)
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | {"weights": str(folder.resolve())}))

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        written = json.loads((folder / CONFIG).read_text())["weights"]
        return super().load(model, Path(written), options, context)


class FolderName(LowRank):
    name = "wrong-folder-name"
    summary = "load() takes the scale from the name of the folder"

    def save(self, model: Any, folder: Path) -> None:
        for layer in adapter_layers(model):
            layer.b.data /= 1 + len(str(folder.resolve()))
        super().save(model, folder)
        for layer in adapter_layers(model):
            layer.b.data *= 1 + len(str(folder.resolve()))

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        loaded = super().load(model, folder, options, context)
        for layer in adapter_layers(loaded):
            layer.b.data *= 1 + len(str(folder.resolve()))
        return loaded


class FileTime(LowRank):
    name = "wrong-file-time"
    summary = "keeps alpha in the modification time of the file"

    def save(self, model: Any, folder: Path) -> None:
        super().save(model, folder)
        os.utime(folder / WEIGHTS, (0, model.adapter_options.alpha))

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        loaded = super().load(model, folder, options, context)
        for layer in adapter_layers(loaded):
            layer.scale = min((folder / WEIGHTS).stat().st_mtime, 1e3) / layer.options.r
        return loaded


class HashedNames(Gains):
    name = "wrong-hashed-names"
    summary = "numbers the saved tensors in the order of a set of names"

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        super().save(model, folder)
        gains = load_file(folder / WEIGHTS)
        save_file({str(number): gains[name] for number, name in enumerate({*model.gained})}, folder / WEIGHTS)

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        from safetensors.torch import load_file

        loaded = self.put(model, json.loads((folder / "targets.json").read_text()))
        gains = load_file(folder / WEIGHTS)
        for number, name in enumerate({*loaded.gained}):
            layer = loaded.get_submodule(name)
            if layer.gain.shape == gains[str(number)].shape:
                layer.gain.data.copy_(gains[str(number)])
        return loaded


class RememberedTensors(LowRank):
    name = "wrong-remembered-tensors"
    summary = "load() takes what the method remembers; the file is rounded"
    memory: ClassVar[dict[str, Any]] = {}

    def save(self, model: Any, folder: Path) -> None:
        self.memory.update({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
        for layer in adapter_layers(model):
            layer.b.data = (layer.b.data * 1e4).round() / 1e4
        super().save(model, folder)
        model.load_state_dict(self.memory, strict=False)

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        loaded = super().load(model, folder, options, context)
        loaded.load_state_dict(self.memory, strict=False)
        return loaded


class StateOnMethod(LowRank):
    name = "wrong-state-on-method"
    summary = "a trained scale is kept on the method and not saved"
    factor = 1.0

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        return [on(on_step_end=lambda *_, **__: setattr(self, "factor", self.factor * 1.02))]

    def delta(self, layer: Any, x: Any) -> Any:
        return super().delta(layer, x) * self.factor

    def change(self, layer: Any) -> Any:
        return super().change(layer) * self.factor


class SavedAtExit(LowRank):
    name = "wrong-saved-at-exit"
    summary = "writes half of the update, and the whole of it when Python ends"

    def save(self, model: Any, folder: Path) -> None:
        super().save(model, folder)
        whole = (folder / WEIGHTS).read_bytes()
        for layer in adapter_layers(model):
            layer.b.data /= 2
        super().save(model, folder)
        for layer in adapter_layers(model):
            layer.b.data *= 2
        atexit.register(lambda: folder.exists() and (folder / WEIGHTS).write_bytes(whole))


WRONG = (
    Wrong(HashSeed, "It seeds the frozen A with hash() of a text."),
    Wrong(ProcessSeed, "It seeds the frozen A with the process id."),
    Wrong(DateSeed, "It seeds the frozen A with today's date."),
    Wrong(ClockSeed, "It seeds the frozen A with the hour."),
    Wrong(FolderSeed, "It seeds the frozen A with the working folder."),
    Wrong(ThreadSeed, "It seeds the frozen A with the number of threads."),
    Wrong(InitialSeed, "It seeds the frozen A with torch.initial_seed()."),
    Wrong(ObjectSeed, "It seeds the frozen A with the method's object id."),
    Wrong(DrawnAgain, "Its load() draws a new frozen A from the global generator."),
    Wrong(PythonRandom, "It seeds the frozen A with Python's generator."),
    Wrong(SetOrder, "It orders the ranks of the frozen A by a set of texts."),
    Wrong(CountedSeed, "It seeds each frozen A with a counter of this process."),
    Wrong(RememberedProjection, "It keeps the frozen A in a dict of the module."),
    Wrong(EnvironmentSeed, "It keeps the seed of the frozen A in os.environ."),
    Wrong(RecipeSeed, "It keeps the recipe's seed on the method; load() takes 0."),
    Wrong(TemporaryFile, "It keeps the frozen A in a temporary file of the process."),
    Wrong(LastOptions, "Its load() takes the options of the last wrap(), not of the file."),
    Wrong(DefaultOptions, "Its load() takes the default alpha, not the one of the training."),
    Wrong(NoSeedAtLoad, "It seeds the frozen A from the number of steps in wrap(), and load() has a fixed number."),
    Wrong(AbsolutePath, "The config has the absolute path of the weights."),
    Wrong(FolderName, "Its load() takes the scale from the name of the folder."),
    Wrong(FileTime, "It keeps alpha in the modification time of the file."),
    Wrong(HashedNames, "It numbers the saved tensors in the order of a set of names."),
    Wrong(RememberedTensors, "Its load() takes what the method remembers; the file is rounded."),
    Wrong(StateOnMethod, "A trained scale is kept on the method and not saved."),
    Wrong(SavedAtExit, "It writes half of the update, and the whole of it when Python ends."),
)
