"""``adapterzoo preview``: show examples exactly as the model will see them."""

from __future__ import annotations

from pathlib import Path

import click

from adapterzoo.cli.arguments import recipe_argument, set_option
from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.terminal import stdout, tell


@click.command()
@recipe_argument
@click.option(
    "-n", "number", type=click.IntRange(min=0), default=3, show_default=True, help="Number of examples to show."
)
@click.option(
    "--split", type=click.Choice(SPLIT_NAMES), default="train", show_default=True, help="Split to show examples of."
)
@click.option("--tokens", is_flag=True, help="Show each token on a line, with its id.")
@set_option
def preview(recipe: Path, number: int, split: str, tokens: bool, overrides: tuple[str, ...]) -> None:
    """Show examples of RECIPE as the model will see them.

    The tokens in the loss are between ⟦ and ⟧.
    """
    from adapterzoo.recipe.reading import load_recipe
    from adapterzoo.running.progress import reporter

    checked = load_recipe(recipe, overrides)
    from adapterzoo.machine.quiet import quiet_libraries
    from adapterzoo.prepare.examples import encode_data, read_data

    console = stdout()
    # The notes on rows that were read and dropped are printed at the end, because they are a result of this command.
    notes: list[str] = []
    checked, splits = read_data(checked, notes.append)
    with quiet_libraries():
        from adapterzoo.model import files as model_files
        from adapterzoo.model.config import load_config

        location = model_files.locate(checked.model.name, reporter().say)
        config = load_config(checked.model, location)
        encoded = encode_data(checked, location, config, splits, notes.append)
        from adapterzoo.tokens import show

        examples = getattr(encoded, split)
        for index, example in enumerate(examples[:number], start=1):
            ids, learned = example.tokens
            count = f"{len(ids)} tokens" + (f", {sum(learned)} in the loss" if any(learned) else "")
            place = f" · {example.row.place}" if example.row.place else ""
            tell(console, f"── {split} {index} of {len(examples)} · {count}{place}", "dim")
            lines = (
                show.token_lines(example, encoded.tokenizer)
                if tokens
                else [show.marked_text(example, encoded.tokenizer)]
            )
            for line in lines:
                console.print(line, soft_wrap=True)
            if not any(learned) and example.row.completion:
                tell(console, f"{encoded.shown_answer}: {example.row.completion}", "bold green")
        console.print()
        for name in SPLIT_NAMES:
            tell(console, show.split_summary(name, getattr(encoded, name)))
        tell(console, f"{show.length_summary(encoded)} (max_length {checked.data.max_length:,})")
        first, *more = encoded.facts or ("",)
        for fact in (f"format {splits.format}; {first}".removesuffix("; "), *more):
            tell(console, fact)
        for note in dict.fromkeys(notes):
            tell(console, note)
