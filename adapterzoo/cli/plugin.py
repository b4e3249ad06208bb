"""``adapterzoo plugin``: the commands for authors of methods."""

from __future__ import annotations

import click

from adapterzoo.cli.plugin_check import check
from adapterzoo.cli.plugin_new import new


@click.group()
def plugin() -> None:
    """Create a package for a new method, and check that a method is sound."""


plugin.add_command(new)
plugin.add_command(check)
