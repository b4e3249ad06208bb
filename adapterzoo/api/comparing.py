"""Run, measure and compare from notebooks and scripts, as the commands of the same names do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo import comparison
from adapterzoo.comparison import Comparison
from adapterzoo.digests import ending
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.recipe.schema import Recipe

if TYPE_CHECKING:
    from adapterzoo.running.reporter import Reporter


class PrintedComparison(Comparison):
    """A comparison that is printed as a table, in a terminal and in a notebook."""

    def __str__(self) -> str:
        from adapterzoo.report.table import plain

        return plain(self)

    def _repr_html_(self) -> str:
        from adapterzoo.report import notebook

        return notebook.html(self)


def compare(
    *folders: str | Path,
    sort: str | None = None,
    against: str | None = None,
    price: float | None = None,
    serving: bool = False,
    trust_remote_code: bool = False,
) -> PrintedComparison:
    """Compare all results in one or several output folders.

    Args:
        folders: output folders of runs. Rows not comparable with those of the first folder are in other blocks.
        sort: the column to order the rows by, best first; by default the first metric.
        against: the label of the row that all others are compared with; by default the best row.
        price: the price, in any currency, of one hour of what a cell runs on: a GPU, or a part of the machine if cells
            run side by side on it.
        serving: whether to find out how each adapter can be served, and what its answers cost, if it is not known yet;
            the rows have it in ``serving``.
        trust_remote_code: whether the model's own code may be run for that, if the recipe in a folder asks for it.

    Raises:
        UserError: a folder has no results, results cannot be read, or there is no such column or label.
    """
    if serving:
        from adapterzoo.adapters.serving import try_servings
        from adapterzoo.running.progress import notebook_reporter

        for folder in folders:
            try_servings(Path(folder), notebook_reporter().say, trust_remote_code)
    compared = comparison.compare(*folders, sort=sort, against=against, price=price)
    return PrintedComparison(compared.blocks, compared.against, compared.unfinished, compared.times, compared.damaged)


def run(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    ray: str | None = None,
    gpus: float | None = None,
    reporter: Reporter | None = None,
) -> PrintedComparison:
    """Train and measure every cell of a recipe that has no result yet, and compare all results.

    Args:
        recipe: a recipe, or the path of its file.
        out: the folder for the results; by default the one that :func:`output_folder` returns.
        methods: the labels or names of the methods to run; by default all methods of the recipe.
        seeds: the seeds to run; by default those of the recipe.
        overrides: assignments like ``train.steps=10``, used only if the recipe is a path.
        jobs: how many cells run at the same time; by default the recipe's number. 0 runs them in this process.
        ray: address of a Ray cluster whose nodes do the cells; by default this machine does.
        gpus: share of a GPU that each cell gets in the cluster; by default one, if it has any.
        reporter: the object that shows the progress; by default it is shown in a notebook only.

    Returns:
        The comparison. A failed cell has a row too, with the reason.

    Raises:
        UserError: the recipe, the data, the model or the folder is wrong.
    """
    from adapterzoo.running import runner
    from adapterzoo.running.on_ray.cluster import RayCluster
    from adapterzoo.running.progress import notebook_reporter

    checked = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if jobs is not None:
        checked = checked.model_copy(update={"jobs": jobs})
    # Make the path absolute now, because a method may change the working directory.
    folder = Path(out if out is not None else output_folder(checked.name, overrides)).absolute()
    cluster = RayCluster(ray, gpus) if ray is not None else None
    runner.run(checked, folder, methods, seeds, reporter or notebook_reporter(), cluster)
    return compare(folder)


def evaluate(
    folder: str | Path,
    data: str | Path,
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    jobs: int | None = None,
    trust_remote_code: bool = False,
    reporter: Reporter | None = None,
) -> PrintedComparison:
    """Measure the adapters of an output folder on other data, and compare the results.

    Args:
        folder: output folder of the run that trained the adapters.
        data: a file, the folder of a saved dataset, or a hub id; all rows are test rows.
        methods: labels or names of methods; by default all.
        seeds: seeds of the adapters; by default all.
        overrides: assignments like ``data.columns={question: q}``, of the sections ``data`` and ``evaluate``.
        out: folder for the results; by default beside ``folder``, with the name of the data behind its own.
        jobs: how many adapters are measured at the same time; by default the recipe's number.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.
        reporter: the object that shows the progress; by default it is shown in a notebook only.

    Raises:
        UserError: there are no such adapters, or something is wrong with their files, the data, the model or the
            folder.
    """
    from adapterzoo.adapters import evaluating
    from adapterzoo.running.progress import notebook_reporter

    into, _ = evaluating.evaluate(
        Path(folder), str(data), methods, seeds, overrides,
        out=None if out is None else Path(out), jobs=jobs, trust_remote_code=trust_remote_code,
        reporter=reporter or notebook_reporter(),
    )  # fmt: skip
    return compare(into)


def evaluate_tasks(
    folder: str | Path,
    tasks: Sequence[str],
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    base: bool = True,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat_template: bool | None = None,
    system_instruction: str | None = None,
    include: str | Path | None = None,
    out: str | Path | None = None,
    trust_remote_code: bool = False,
    reporter: Reporter | None = None,
) -> PrintedComparison:
    """Measure the adapters of an output folder with tasks of lm-eval, and compare the results.

    Args:
        folder: output folder of the run that trained the adapters.
        tasks: names of tasks, groups or tags of lm-eval; each becomes a block of the comparison.
        methods: labels or names of methods; by default all.
        seeds: seeds of the adapters; by default all.
        base: whether to measure the untouched base model too.
        limit: number of examples of each task; by default all.
        num_fewshot: number of examples in each prompt; by default each task's own number.
        chat_template: whether prompts are written by the model's chat template; by default as in the training.
        system_instruction: text before each question; by default none.
        include: folder with task files of your own, which may run code.
        out: folder for the results, with a folder in it for each task; by default they are beside ``folder``.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.
        reporter: the object that shows the progress; by default it is shown in a notebook only.

    Raises:
        UserError: lm-eval is not installed, there are no such adapters or tasks, or something is wrong with their
            files, the model or a folder.
    """
    from adapterzoo.adapters import benchmarking
    from adapterzoo.adapters.benchmarks import Asking
    from adapterzoo.running.progress import notebook_reporter

    folders, _ = benchmarking.evaluate_tasks(
        Path(folder), tasks, methods, seeds,
        asking=Asking(limit, num_fewshot, chat_template, system_instruction), base=base,
        include=None if include is None else Path(include),
        out=None if out is None else Path(out), trust_remote_code=trust_remote_code,
        reporter=reporter or notebook_reporter(),
    )  # fmt: skip
    return compare(*folders)


def output_folder(name: str, overrides: Sequence[str] = ()) -> Path:
    """Return the default folder for results: ``runs/<name>``, or a separate folder for each set of overrides."""
    return Path("runs") / f"{name}{ending(overrides)}"
