"""``adapterzoo generate``: answer prompts with a trained adapter."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from adapterzoo.cli.arguments import trust_option
from adapterzoo.errors import UserError
from adapterzoo.terminal import clean_lines, stdout_to_stderr

BATCH_SIZE = 8


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-m", "--method", required=True, help="Label or method of the adapter.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the adapter [the first].")
@click.option(
    "--prompt", "prompts", multiple=True, metavar="TEXT", help="Prompt to answer (repeatable) [the lines of stdin]."
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Largest number of tokens in an answer.",
)
@trust_option
def generate(
    folder: Path,
    method: str,
    seed: int | None,
    prompts: tuple[str, ...],
    max_new_tokens: int,
    trust_remote_code: bool,
) -> None:
    """Answer prompts with the adapter METHOD in DIR.

    The base model and the chat template are those that the adapter was trained with.
    """
    from adapterzoo.adapters import loading as adapters
    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.running.progress import reporter

    adapter = find_adapter(folder, method, seed, trust_remote_code)
    adapters.require_causal(adapter)
    asked = list(prompts) or [line for line in sys.stdin.read().split("\n") if line.strip()]
    if not asked:
        raise UserError.at("--prompt", "there is no prompt.", "Give --prompt TEXT, or lines on stdin.")
    rows = [adapters.question_row(adapter.recipe.data, prompt) for prompt in asked]
    from adapterzoo.evaluation.generation import generate as answer
    from adapterzoo.machine.quiet import quiet_libraries

    with (
        stdout_to_stderr(),
        quiet_libraries(),
        adapters.ready_model(adapter, adapter.result.quantization, reporter().say, rows) as ready,
    ):
        model, encoder = ready
        # The encoder learns from an example which tokens end an answer.
        encoded = encoder.collect({"train": [encoder.example(rows[0])], "validation": [], "test": []}, [], "")
        answers = answer(model, encoded, [encoder.prompt(row) for row in rows], BATCH_SIZE, max_new_tokens)
    for text in answers:
        _print(text)


def _print(answer: str) -> None:
    """Print an answer: in a terminal without control characters, in a pipe or file exactly as the model wrote it."""
    if sys.stdout.isatty():
        click.echo(clean_lines(answer))
        return
    sys.stdout.buffer.write(f"{answer}\n".encode())  # click.echo would remove escape sequences.
    sys.stdout.buffer.flush()
