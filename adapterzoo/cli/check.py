"""``adapterzoo check``: every problem of a recipe, without training."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from adapterzoo.cli.arguments import recipe_options
from adapterzoo.terminal import count, safe, size, stdout, tell

# Bytes of a parameter, by dtype and, for linear layers, by quantization with its constants.
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.01, "nf4": 0.52}
# float32 weight, gradient, and AdamW's two moments.
TRAINED_BYTES = 16


@click.command()
@recipe_options
def check(recipe: Path, methods: tuple[str, ...], seeds: tuple[int, ...], overrides: tuple[str, ...]) -> None:
    """Find every problem of RECIPE without training, and print the plan."""
    from adapterzoo.progress import reporter
    from adapterzoo.reading import load_recipe

    checked = load_recipe(recipe, overrides)
    from adapterzoo.prepare import prepare
    from adapterzoo.tokens.show import lengths

    prepared = prepare(checked, methods, seeds, reporter().say)
    console = stdout()
    encoded = prepared.encoded
    tell(console, f"{checked.name}: {checked.model.name}, {prepared.base_parameters:,} parameters")
    rows = f"{len(encoded.train)} train, {len(encoded.validation)} validation, {len(encoded.test)} test rows"
    tell(console, f"data: {rows}; {lengths(encoded)}")
    batch = checked.train.batch_size * checked.train.gradient_accumulation
    tell(console, f"training: {prepared.steps} steps of {batch} rows")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    cells = [cell for cell in prepared.cells if cell.method]
    labelled = any(cell.label != cell.method for cell in cells)
    for title in ("cell", *(["method"] if labelled else []), "seed", "base", "lr", "parameters", "memory"):
        table.add_column(title, no_wrap=True, justify="left" if title in ("cell", "method", "base") else "right")
    for cell in cells:
        trained = prepared.trainable.get(cell.label, 0)
        linear = prepared.linear_parameters
        memory = linear * BYTES[checked.model.dtype if cell.base == "none" else cell.base] + trained * TRAINED_BYTES
        memory += (prepared.base_parameters - linear) * BYTES[checked.model.dtype]
        values = (
            cell.label,
            *([cell.method] if labelled else []),
            cell.seed,
            cell.base,
            f"{cell.learning_rate:g}",
            count(trained) if trained else "?",
            size(memory),
        )
        table.add_row(*(safe(value) for value in values))
    console.print(table)
    tell(console, f"{len(cells)} cells. memory: weights and optimizer; activations come on top.", "dim")
