"""``adapterzoo generate``: ask trained adapters."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapterzoo.cli.arguments import trust_option
from adapterzoo.errors import UserError
from adapterzoo.terminal import clean_lines, safe, stdout, stdout_to_stderr, tell

if TYPE_CHECKING:
    from adapterzoo.adapters.asking import Answerer
    from adapterzoo.running.reporter import Reporter

FORMATS = ("text", "json")
CLEAR = "/clear"


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-m", "--method", "methods", multiple=True, help="Label or method of an adapter (repeatable).")
@click.option("--base", is_flag=True, help="Ask the untouched base model, too.")
@click.option(
    "--compare", "every", is_flag=True, help="Ask the base model and all adapters, or those of -m, side by side."
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the adapter [the first].")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help="Prompt to answer (repeatable) [the lines of stdin; at a terminal, a conversation].",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Largest number of tokens in an answer.",
)
@click.option("--format", "style", type=click.Choice(FORMATS), default=FORMATS[0], help="Form of the answers.")
@trust_option
def generate(
    folder: Path,
    methods: tuple[str, ...],
    base: bool,
    every: bool,
    seed: int | None,
    prompts: tuple[str, ...],
    max_new_tokens: int,
    style: str,
    trust_remote_code: bool,
) -> None:
    """Answer prompts with the adapters in DIR.

    The base model and the chat template are those that the adapters were trained with. The answers of several models
    are printed side by side. Without a prompt, a conversation with one model begins at a terminal.
    """
    from adapterzoo.adapters import asking
    from adapterzoo.running.progress import reporter

    if not (methods or base or every):
        raise UserError.at("--method", "is missing.", "Name an adapter, or give --base or --compare.")
    progress = reporter()
    answerers = asking.find_answerers(
        folder, methods, seed, every=every, base=base, trust_remote_code=trust_remote_code, say=progress.say
    )
    if not prompts and sys.stdin.isatty() and len(answerers) == 1 and style == FORMATS[0]:
        _converse(answerers[0], max_new_tokens, progress)
        return
    asked = list(prompts) or [line for line in sys.stdin.read().split("\n") if line.strip()]
    if not asked:
        raise UserError.at("--prompt", "there is no prompt.", "Give --prompt TEXT, or lines on stdin.")
    from adapterzoo.machine.quiet import quiet_libraries

    with stdout_to_stderr(), quiet_libraries():
        answers = asking.ask(answerers, asked, max_new_tokens, progress.say)
    if style == "json":
        _print_json(asked, answers)
    elif len(answers) == 1:
        for text in next(iter(answers.values())):
            _print(text)
    else:
        _print_side_by_side(asked, answers)


def _print(answer: str) -> None:
    """Print an answer: in a terminal without control characters, in a pipe or file exactly as the model wrote it."""
    if sys.stdout.isatty():
        click.echo(clean_lines(answer))
        return
    sys.stdout.buffer.write(f"{answer}\n".encode())  # click.echo would remove escape sequences.
    sys.stdout.buffer.flush()


def _print_json(prompts: Sequence[str], answers: Mapping[str, Sequence[str]]) -> None:
    """Print a list with a record for each prompt."""
    records = [
        {"prompt": prompt, "answers": {label: texts[number] for label, texts in answers.items()}}
        for number, prompt in enumerate(prompts)
    ]
    # In a terminal, characters that could control it are escaped.
    click.echo(json.dumps(records, indent=1, ensure_ascii=sys.stdout.isatty()).encode())


def _print_side_by_side(prompts: Sequence[str], answers: Mapping[str, Sequence[str]]) -> None:
    """Print each prompt, and below it the answer of every model."""
    from adapterzoo.report.side_by_side import AnswerPrinter

    console = stdout()
    printer = AnswerPrinter(console, list(answers), range(1, len(prompts) + 1))
    for number, prompt in enumerate(prompts):
        printer.question(number + 1, prompt)
        for label, texts in answers.items():
            printer.answer(label, texts[number])
        console.print()


def _converse(answerer: Answerer, max_new_tokens: int, progress: Reporter) -> None:
    """Answer what is typed, until the end of input; the answers appear word by word."""
    with suppress(ImportError):  # Windows has its own
        import readline  # noqa: F401  # gives input() the keys that edit a line, and those that show earlier ones

    from adapterzoo.adapters import asking
    from adapterzoo.machine.quiet import quiet_libraries

    console = stdout()
    with quiet_libraries(), asking.conversation(answerer, max_new_tokens, progress.say) as conversation:
        tell(console, _greeting(answerer.label, conversation.remembers), "dim")
        while (text := _read_line()) is not None:
            if text.strip() == CLEAR:
                conversation.history.clear()
                continue
            if not text.strip():
                continue
            try:
                conversation.ask(text, lambda piece: click.echo(clean_lines(piece), nl=False))
            except KeyboardInterrupt:
                console.print(safe(" (stopped)", "dim"), end="")
            except UserError as error:
                console.print(safe(error, "red"), soft_wrap=True)
                continue
            click.echo()
            if conversation.forgotten:
                console.print(safe("(the model can read no more: the oldest turns are forgotten)", "dim"))


def _greeting(label: str, remembers: bool) -> str:
    if not remembers:
        return f"{label} continues each text that you type. Ctrl-D ends."
    return f"Ask {label}. It remembers what was said; {CLEAR} makes it forget. Ctrl-D ends."


def _read_line() -> str | None:
    """Return the next line; None at the end of input."""
    try:
        return input("> ")
    except EOFError:
        click.echo()
        return None
