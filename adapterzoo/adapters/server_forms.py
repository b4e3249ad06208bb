"""Export trained adapters for other programs: llama.cpp, Ollama and MLX. Their own converters write the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.adapters import converting
from adapterzoo.adapters.change import ScoreChange
from adapterzoo.adapters.exporting import Export, export_lora
from adapterzoo.adapters.finding import Adapter, Say, check_files
from adapterzoo.adapters.loading import require_causal, saved_encoder
from adapterzoo.adapters.merging import Merger, check_mergeable
from adapterzoo.adapters.modelfile import GGUF_NAME, adds_start_token, modelfile
from adapterzoo.errors import UserError
from adapterzoo.files import new_folder

if TYPE_CHECKING:
    from adapterzoo.tokens.encode import Encoder

GGUF_ADAPTER_NAME = "adapter.gguf"
MODELFILE = "Modelfile"


def export_gguf(
    adapter: Adapter,
    to: Path,
    say: Say,
    *,
    checkout: Path | None = None,
    with_modelfile: bool = False,
    measure: bool = True,
) -> list[ScoreChange]:
    """Merge an adapter into its base model, and write a folder with the model as a GGUF file in the recipe's dtype.

    Args:
        adapter: the adapter, of any method that can be merged.
        to: the folder to write.
        say: is called with a message before each step that takes long.
        checkout: a checkout of llama.cpp, whose converter is used in place of the installed one.
        with_modelfile: whether to write Ollama's Modelfile beside the GGUF file.
        measure: whether to measure the merged model on the test rows.

    Returns:
        How the scores of the test rows change in the merged model; nothing if they were not measured.

    Raises:
        UserError: the folder is not empty, the adapter cannot be merged, its chat template cannot be written for
            Ollama, or the converter is not installed or fails.
    """
    check_mergeable(adapter, to)
    llama_cpp = converting.find_llama_cpp(checkout)
    encoder = _encoder(adapter, say)
    text = modelfile(encoder, adapter.recipe.data) if with_modelfile else None
    with new_folder(to) as folder:
        folder.mkdir()
        say("asking llama.cpp's converter whether it knows the tokenizer")
        described = _describe(adapter, encoder, folder / "base", say)
        vocabulary = folder / "vocabulary.gguf"
        converting.convert(converting.model_to_gguf(llama_cpp, described, vocabulary, "--vocab-only"), _log(to))
        vocabulary.unlink(missing_ok=True)
        shutil.rmtree(described)
        options = ("--outtype", converting.GGUF_DTYPES[adapter.recipe.model.dtype])
        name = ("--model-name", f"{adapter.recipe.name}-{adapter.result.label}")

        def command(merged: Path) -> list[str]:
            _adjust(merged, adapter, encoder)
            return converting.model_to_gguf(llama_cpp, merged, folder / GGUF_NAME, *options, *name)

        changes = _merge_and_convert(adapter, folder / "merged", command, _log(to), say, measure)
        if text is not None:
            (folder / MODELFILE).write_text(text, encoding="utf-8")
    return changes


def export_mlx(adapter: Adapter, to: Path, say: Say, *, measure: bool = True) -> list[ScoreChange]:
    """Merge an adapter into its base model, and write the model as a folder that mlx-lm loads.

    Args:
        adapter: the adapter, of any method that can be merged.
        to: the folder to write.
        say: is called with a message before each step that takes long.
        measure: whether to measure the merged model on the test rows.

    Returns:
        How the scores of the test rows change in the merged model; nothing if they were not measured.

    Raises:
        UserError: the folder is not empty, the adapter cannot be merged, or mlx-lm is not installed or fails.
    """
    check_mergeable(adapter, to)
    converting.model_to_mlx(to, to)  # refuse before anything is loaded
    _encoder(adapter, say)
    with new_folder(to) as folder:
        folder.mkdir()
        converted = folder / "mlx"  # mlx-lm writes no folder that is there already

        def command(merged: Path) -> list[str]:
            _adjust(merged, adapter)
            return converting.model_to_mlx(merged, converted)

        changes = _merge_and_convert(adapter, folder / "merged", command, _log(to), say, measure)
        for file in converted.iterdir():
            file.rename(folder / file.name)
        converted.rmdir()
    return changes


def export_gguf_lora(
    adapter: Adapter,
    to: Path,
    say: Say,
    *,
    checkout: Path | None = None,
    rank: int | None = None,
    keep: float | None = None,
    measure: bool = True,
) -> Export:
    """Write a folder with a LoRA adapter as a GGUF file, which llama.cpp puts on a GGUF file of the base model.

    Args:
        adapter: the adapter, of any method that can be merged.
        to: the folder to write.
        say: is called with a message before each step that takes long.
        checkout: a checkout of llama.cpp, whose converter is used in place of the installed one.
        rank: as for :func:`export_lora`.
        keep: as for :func:`export_lora`.
        measure: whether to measure the LoRA adapter on the test rows.

    Raises:
        UserError: as for :func:`export_lora`, or the converter is not installed, fails, or would write wrong weights.
    """
    check_mergeable(adapter, to)
    llama_cpp = converting.find_llama_cpp(checkout)
    encoder = _encoder(adapter, say)
    with new_folder(to) as folder:
        folder.mkdir()
        lora = folder / "lora"
        described = _describe(adapter, encoder, folder / "base", say)
        export = export_lora(adapter, lora, say, rank=rank, keep=keep, measure=measure)
        if _json(lora / "adapter_config.json").get("fan_in_fan_out"):
            what = (
                "the base model keeps its weights transposed, which llama.cpp's converter of adapters does not expect."
            )
            raise UserError.at("--as", what, "Give --as gguf.")
        say("converting with llama.cpp")
        converting.convert(converting.lora_to_gguf(llama_cpp, lora, described, folder / GGUF_ADAPTER_NAME), _log(to))
        shutil.rmtree(lora)
        shutil.rmtree(described)
    return export


def base_gguf_command(adapter: Adapter, checkout: Path | None = None) -> list[str]:
    """Return the command that converts the base model of an adapter to a GGUF file."""
    from adapterzoo.model.files import locate

    location = Path(locate(adapter.recipe.model.name))
    remote = () if location.is_dir() else ("--remote",)
    options = ("--outtype", converting.GGUF_DTYPES[adapter.recipe.model.dtype], *remote)
    return converting.model_to_gguf(converting.find_llama_cpp(checkout), location, Path("base.gguf"), *options)


def _merge_and_convert(
    adapter: Adapter, merged: Path, command: Callable[[Path], list[str]], log: Path, say: Say, measure: bool
) -> list[ScoreChange]:
    """Merge an adapter into a folder, run a converter on it, and remove it; return the changes of the scores."""
    changes = Merger(say, measure=measure).merge(adapter, merged)
    arguments = command(merged)
    say("converting the merged model")
    converting.convert(arguments, log)
    shutil.rmtree(merged)
    return changes


def _encoder(adapter: Adapter, say: Say) -> Encoder:
    """Return the encoder of an adapter whose files are what the run wrote.

    Raises:
        UserError: they are not, or the adapter is not of a causal language model.
    """
    require_causal(adapter)
    check_files(adapter, say)
    return saved_encoder(adapter)


def _describe(adapter: Adapter, encoder: Encoder, folder: Path, say: Say) -> Path:
    """Write a folder with the base model's configuration and tokenizer, without weights, and return it."""
    from adapterzoo.model.config import load_config
    from adapterzoo.model.files import locate

    model = adapter.recipe.model
    load_config(model, locate(model.name, say)).save_pretrained(str(folder))
    encoder.tokenizer.save_pretrained(str(folder))
    _adjust(folder, adapter, encoder)
    return folder


def _adjust(folder: Path, adapter: Adapter, encoder: Encoder | None = None) -> None:
    """Prepare a model's folder for a converter.

    The converters run code that a model brings, so its names are removed unless the recipe trusts it. A GGUF file says
    whether a runtime adds the start token; ``encoder`` knows whether the training's prompts had it.
    """
    changes: dict[str, dict[str, Any]] = {"config.json": {}, "tokenizer_config.json": {}}
    if encoder is not None:
        changes["tokenizer_config.json"]["add_bos_token"] = adds_start_token(encoder, adapter.recipe.data)
    for name, change in changes.items():
        content = {**_json(folder / name), **change}
        if not adapter.recipe.model.trust_remote_code:
            content.pop("auto_map", None)
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _log(to: Path) -> Path:
    """Return the file for what a converter prints if it fails, beside the folder that is not written then."""
    return to.absolute().with_name(f"{to.absolute().name}.log")
