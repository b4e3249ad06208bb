"""The command line: one file for each command, and the code that the commands share."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from io import TextIOWrapper
from typing import Any

import click

from adapterzoo.errors import AloneError, UserError, failure_reason
from adapterzoo.machine import launcher, ranks
from adapterzoo.terminal import safe, stderr

SECONDS_TO_PRINT = 2.0
MAX_PROBLEMS_SHOWN = 100  # further problems are only counted


class _Group(click.Group):
    """A group of commands that prints a user's mistake without a traceback, unless ``--debug`` is given."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; exit with 2 after a user's mistake, and with 1 if the system refuses something."""
        try:
            return self._invoke(context)
        except UserError as error:
            if ranks.follows():
                time.sleep(SECONDS_TO_PRINT)  # a launcher ends rank 0, which prints it, as soon as this one has ended
                sys.exit(2)
            console = stderr()
            for problem in error.problems[:MAX_PROBLEMS_SHOWN]:
                console.print(safe("error: ", "bold red").append_text(safe(problem)), soft_wrap=True)
            if (more := len(error.problems) - MAX_PROBLEMS_SHOWN) > 0:
                console.print(f"and {more:,} more problems")
            if context.params.get("debug"):
                traceback.print_exc()
            sys.exit(2)
        except KeyboardInterrupt as stopped:
            if ranks.follows():
                sys.exit(128 + (stopped.args[0] if stopped.args else signal.SIGINT))
            message = "stopped. Finished cells and saved steps are kept; run the same command again to go on."
            stderr().print(message if context.invoked_subcommand in ("run", "work") else "stopped.", soft_wrap=True)
            sys.exit(128 + (stopped.args[0] if stopped.args else signal.SIGINT))
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                # The program that reads the output has ended, which is not an error.
                sys.stderr.close()
                sys.exit(0)
            stderr().print(safe("error: ", "bold red").append_text(safe(_reason(error))), soft_wrap=True)
            if context.params.get("debug"):
                traceback.print_exc()
            sys.exit(1)

    def _invoke(self, context: click.Context) -> Any:
        """Run the command; if it fails, tell the launcher that has started this process why."""
        try:
            return super().invoke(context)
        except (click.exceptions.Exit, click.Abort):
            raise
        except (Exception, AloneError) as error:
            launcher.report_failure(f"error: {_reason(error)}")
            raise


def _reason(error: BaseException) -> str:
    """Return the reason of an error as it is shown at a terminal."""
    if isinstance(error, (UserError, click.ClickException)):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}"
    return failure_reason(error)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="adapterzoo")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Train a language model with every adapter method by one recipe, and compare them in one table."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # Some terminals cannot show all characters.
    # torch reads these variables when it is imported. By default its threads keep their cores busy while they wait,
    # which makes training 2 to 20 times slower as soon as another process needs a core. But if they slept at once,
    # training would be 2 times slower on an idle machine. So they keep the cores busy for a short time, then sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if ranks.launched() > 1:  # torch would warn on each rank that it looks for parameters without gradients
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _add_commands() -> None:
    from adapterzoo.cli.check import check
    from adapterzoo.cli.compare import compare
    from adapterzoo.cli.evaluate import evaluate
    from adapterzoo.cli.export import export
    from adapterzoo.cli.generate import generate
    from adapterzoo.cli.init import init
    from adapterzoo.cli.merge import merge
    from adapterzoo.cli.methods import methods
    from adapterzoo.cli.plugin import plugin
    from adapterzoo.cli.preview import preview
    from adapterzoo.cli.push import push
    from adapterzoo.cli.quantizations import quantizations
    from adapterzoo.cli.run import run
    from adapterzoo.cli.schema import schema
    from adapterzoo.cli.view import view
    from adapterzoo.cli.work import work

    commands = (
        methods, quantizations, init, preview, check, run, work, compare, view, generate, evaluate, merge, export, push,
        schema, plugin,
    )  # fmt: skip
    for command in commands:
        main.add_command(command)


_add_commands()
