"""``adapterzoo generate``: answers of a trained adapter."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from adapterzoo.errors import UserError
from adapterzoo.terminal import clean_lines, stdout_to_stderr

BATCH = 8


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-m", "--method", required=True, help="Label or method of the adapter.")
@click.option("--seed", type=click.IntRange(min=0), help="Of which seed [the first].")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to ask (repeatable) [lines of stdin].")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True)
def generate(folder: Path, method: str, seed: int | None, prompts: tuple[str, ...], max_new_tokens: int) -> None:
    """Answer with the adapter METHOD in DIR, on the base it was trained on, as it was trained to be asked."""
    from adapterzoo.adapters import loading as adapters
    from adapterzoo.running.progress import reporter

    adapter = adapters.find(folder, method, seed)
    asked = list(prompts) or [line for line in sys.stdin.read().split("\n") if line.strip()]
    if not asked:
        raise UserError.at("--prompt", "there is nothing to ask.", "Give --prompt TEXT, or lines on stdin.")
    rows = [adapters.question(adapter.recipe.data, prompt) for prompt in asked]
    from adapterzoo.evaluation.generation import generate as answer
    from adapterzoo.prepare.prepared import quiet_libraries

    with (
        stdout_to_stderr(),
        quiet_libraries(),
        adapters.loaded(adapter, adapter.result.quantization, reporter().say) as ready,
    ):
        model, encoder = ready
        # An example, for the tokens that end an answer.
        encoded = encoder.collect({"train": [encoder.example(rows[0])], "validation": [], "test": []}, [], "")
        answers = answer(model, encoded, [encoder.prompt(row) for row in rows], BATCH, max_new_tokens)
    for text in answers:
        _print(text)


def _print(answer: str) -> None:
    """Print an answer: at a terminal without what could steer it, in a pipe byte by byte as the model wrote it."""
    if sys.stdout.isatty():
        click.echo(clean_lines(answer))
        return
    sys.stdout.buffer.write(f"{answer}\n".encode())  # click's own printing would leave out escape sequences
    sys.stdout.buffer.flush()
