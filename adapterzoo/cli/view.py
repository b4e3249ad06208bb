"""``adapterzoo view``: the comparison as a page in the browser, live while a run goes on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from adapterzoo.errors import UserError
from adapterzoo.terminal import safe, stderr


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on [any free one].")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def view(folder: Path, port: int, no_browser: bool) -> None:
    """Show the comparison of the results in DIR as a page, and follow a run that is under way.

    The page is served on this machine alone, until Ctrl-C. Nothing in DIR is changed, and no file of it is served.
    """
    from adapterzoo.report.live import LiveFolder
    from adapterzoo.report.server import PageServer

    watched = LiveFolder(folder)
    try:
        server = PageServer(watched, port)
    except OSError as error:
        hint = "Give another one, or leave --port out."
        raise UserError.at(f"--port {port}", f"cannot be used: {error.strerror}.", hint) from None
    with server:
        click.echo(server.url)
        sys.stdout.flush()
        stderr().print(safe("Ctrl-C ends it."), soft_wrap=True)
        if not no_browser and _has_display():
            _open(server.url)
        server.serve_forever()


def _has_display() -> bool:
    """Tell whether a browser can open a window; one that draws in the terminal would take the terminal over."""
    return os.name == "nt" or sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def _open(url: str) -> None:
    import webbrowser

    try:
        opened = webbrowser.open(url)
    except webbrowser.Error:
        opened = False
    if not opened:
        stderr().print(safe("No browser was found: open the address in one."), soft_wrap=True)
