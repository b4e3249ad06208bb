"""``adapterzoo plugin``: the commands for authors of methods and of quantizations."""

from __future__ import annotations

import click

from adapterzoo.cli.plugin_capabilities import capabilities
from adapterzoo.cli.plugin_check import check
from adapterzoo.cli.plugin_new import new
from adapterzoo.cli.plugin_quantization import quantization


@click.group()
def plugin() -> None:
    """Write a package for a new method, check a method or a quantization, or try what it can do."""


plugin.add_command(new)
plugin.add_command(check)
plugin.add_command(capabilities)
plugin.add_command(quantization)
