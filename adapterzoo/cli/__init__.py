"""The command line: one file a command, and what they share."""

from __future__ import annotations

import os
import sys
import traceback
from io import TextIOWrapper
from typing import Any

import click

from adapterzoo.errors import UserError
from adapterzoo.terminal import safe, stderr


class _Group(click.Group):
    """Shows a person's mistake plainly; ``--debug`` shows where in the code it was found."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except UserError as error:
            console = stderr()
            for problem in error.problems:
                console.print(safe("error: ", "bold red").append_text(safe(problem)), soft_wrap=True)
            if context.params.get("debug"):
                traceback.print_exc()
            sys.exit(2)
        except KeyboardInterrupt:
            message = "stopped. Finished cells are kept; the same command goes on from there."
            stderr().print(message if context.invoked_subcommand == "run" else "stopped.")
            sys.exit(130)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                # The reader of a pipe went away: nothing is wrong here.
                sys.stderr.close()
                sys.exit(0)
            reason = f"{error.filename or 'output'}: {error.strerror or error}"
            stderr().print(safe("error: ", "bold red").append_text(safe(reason)))
            if context.params.get("debug"):
                traceback.print_exc()
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="adapterzoo")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """One recipe, every adapter method, one table you can trust."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal of few letters cannot show
    # Before torch is imported: waiting threads that spin make training 2 to 20 times slower as soon as another
    # process wants one of the cores. Those that sleep at once make it 2 times slower where none does.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def _add_commands() -> None:
    from adapterzoo.cli.check import check
    from adapterzoo.cli.compare import compare
    from adapterzoo.cli.generate import generate
    from adapterzoo.cli.init import init
    from adapterzoo.cli.merge import merge
    from adapterzoo.cli.methods import methods
    from adapterzoo.cli.plugin import plugin
    from adapterzoo.cli.preview import preview
    from adapterzoo.cli.run import run

    for command in (methods, init, preview, check, run, compare, generate, merge, plugin):
        main.add_command(command)


_add_commands()
