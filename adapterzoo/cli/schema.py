"""``adapterzoo schema``: print the JSON schema of recipes."""

from __future__ import annotations

import click


@click.command()
def schema() -> None:
    """Print the JSON schema of recipes, with the options of every installed method.

    An editor completes and checks a recipe with it, if the recipe begins with this line, which init writes:

    \b
    # yaml-language-server: $schema=recipe.schema.json
    """
    from adapterzoo.recipe.json_schema import schema_text

    click.echo(schema_text(), nl=False)
