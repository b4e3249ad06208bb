"""``adapterzoo plugin``: the commands for authors of methods."""

from __future__ import annotations

import click

from adapterzoo.cli.plugin_capabilities import capabilities
from adapterzoo.cli.plugin_check import check
from adapterzoo.cli.plugin_new import new


@click.group()
def plugin() -> None:
    """Write a package for a new method, or check a method, or try what it can do."""


plugin.add_command(new)
plugin.add_command(check)
plugin.add_command(capabilities)
