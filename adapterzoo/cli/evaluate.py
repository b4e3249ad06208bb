"""``adapterzoo evaluate``: measure trained adapters on other data, or with the tasks of lm-eval."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterzoo.cli.arguments import method_option, seed_option, trust_option
from adapterzoo.cli.progress import shown_progress
from adapterzoo.errors import Problem, UserError
from adapterzoo.terminal import stdout

if TYPE_CHECKING:
    from adapterzoo.results.result import Result

OF_TASKS = {
    "base": "--base",
    "limit": "--limit",
    "num_fewshot": "--num-fewshot",
    "chat_template": "--apply-chat-template",
    "system_instruction": "--system-instruction",
    "include": "--include-path",
}
"""options that belong to --tasks"""
NOT_ASKING = ("base", "include")
"""those of them that do not say how lm-eval asks"""


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@method_option
@seed_option
@click.option(
    "--data", "source", metavar="SOURCE", help="Rows to measure on: a file, the folder of a saved dataset, or a hub id."
)
@click.option("--tasks", metavar="NAME,...", help="Tasks, groups or tags of lm-eval to measure with, like gsm8k,mmlu.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --data: override a key of data or evaluate, like data.columns={question: q} (repeatable).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the results, with --tasks one in it for each task [beside DIR, <DIR>-on-<SOURCE or task>].",
)
@click.option(
    "--jobs", type=click.IntRange(min=0), help="With --data: adapters measured at the same time [as in the run]."
)
@click.option("--limit", type=click.IntRange(min=1), help="With --tasks: number of examples of each task [all].")
@click.option(
    "--num-fewshot", type=click.IntRange(min=0), help="With --tasks: examples in each prompt [each task's own number]."
)
@click.option(
    "--apply-chat-template/--no-apply-chat-template",
    "chat_template",
    default=None,
    help="With --tasks: whether prompts are written by the chat template [as in the training].",
)
@click.option("--system-instruction", metavar="TEXT", help="With --tasks: text before each question [none].")
@click.option("--base/--no-base", default=None, help="With --tasks: also measure the untouched base model [yes].")
@click.option(
    "--include-path",
    "include",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With --tasks: folder with task files of your own. They may run code: use only files that you trust.",
)
@trust_option
def evaluate(
    folder: Path,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    source: str | None,
    tasks: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    jobs: int | None,
    trust_remote_code: bool,
    **of_tasks: Any,
) -> None:
    """Measure the adapters in DIR on other data or with tasks of lm-eval, and print the comparison.

    With --data, all rows of SOURCE are test rows. They are read, asked and scored as in the run, and the untouched base
    model is measured on them too, if it was in the run. With --tasks, lm-eval asks and scores, and the scores of its
    examples are compared as those of a run are.
    """
    from adapterzoo.comparison import compare
    from adapterzoo.report import table

    given = {name: value for name, value in of_tasks.items() if value is not None}
    _check_options(source, tasks, overrides, jobs, given)
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    common: dict[str, Any] = {"out": out, "trust_remote_code": trust_remote_code}
    results: list[Result]
    with shown_progress() as progress:
        if source is not None:
            from adapterzoo.adapters import evaluating

            into, results = evaluating.evaluate(
                folder, source, methods, seeds, overrides, jobs=jobs, reporter=progress, **common
            )
            folders = [into]
        else:
            from adapterzoo.adapters import benchmarking
            from adapterzoo.adapters.benchmarks import Asking

            asking = Asking(**{name: value for name, value in given.items() if name not in NOT_ASKING})
            common |= {name: given[name] for name in NOT_ASKING if name in given}
            folders, results = benchmarking.evaluate_tasks(
                folder, names, methods, seeds, asking=asking, reporter=progress, **common
            )
    table.render(compare(*folders), stdout())
    if not all(result.ok for result in results):
        sys.exit(1)


def _check_options(
    source: str | None, tasks: str | None, overrides: tuple[str, ...], jobs: int | None, of_tasks: dict[str, Any]
) -> None:
    """Raise UserError unless there is either --data or --tasks, with the options that belong to it."""
    if (source is None) == (tasks is None):
        what = "give one of them." if source is None else "give only one of them."
        raise UserError.at("--data, --tasks", what, "--data new.csv for rows, --tasks gsm8k for tasks of lm-eval.")
    if tasks is not None and not tasks.strip(" ,"):
        raise UserError.at("--tasks", "is empty.", "Give names of lm-eval's tasks, like gsm8k.")
    of_data = [*(["--set"] if overrides else []), *(["--jobs"] if jobs is not None else [])]
    wrong = [OF_TASKS[name] for name in of_tasks] if tasks is None else of_data
    if wrong:
        other = "--tasks" if tasks is None else "--data"
        raise UserError(*(Problem(option, f"belongs to {other}.", "Leave it out.") for option in wrong))
