"""Ask, merge and export trained adapters from notebooks and scripts, as the commands of the same names do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapterzoo.adapters.change import ScoreChange
    from adapterzoo.adapters.exporting import Export


def generate(
    folder: str | Path,
    prompts: Sequence[str],
    *,
    methods: Sequence[str] = (),
    base: bool = False,
    seed: int | None = None,
    max_new_tokens: int = 256,
    trust_remote_code: bool = False,
) -> dict[str, list[str]]:
    """Ask adapters of an output folder, on the base model that they were trained on.

    Args:
        folder: output folder of a run.
        prompts: the questions.
        methods: labels or names of methods; with neither methods nor ``base``, all adapters and the base model.
        base: whether to ask the untouched base model too.
        seed: seed of the adapters; by default the first of each label.
        max_new_tokens: largest number of tokens of an answer.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.

    Returns:
        Label -> the answer to each prompt; the base model has the label ``base``.

    Raises:
        UserError: there are no such adapters, their files are damaged, or a prompt is too long.
    """
    from adapterzoo.adapters import asking
    from adapterzoo.machine.quiet import quiet_libraries
    from adapterzoo.running.progress import notebook_reporter

    every, say = not (methods or base), notebook_reporter().say
    answerers = asking.find_answerers(
        Path(folder), methods, seed, every=every, base=base, trust_remote_code=trust_remote_code, say=say
    )
    with quiet_libraries():
        return asking.ask(answerers, prompts, max_new_tokens, say)


def merge(
    folder: str | Path,
    method: str,
    to: str | Path,
    *,
    seed: int | None = None,
    measure: bool = True,
    trust_remote_code: bool = False,
) -> list[ScoreChange]:
    """Merge an adapter into its base model, and write the model as a folder that transformers loads.

    Args:
        folder: output folder of a run.
        method: label or name of the method.
        to: the folder to write.
        seed: seed of the adapter; by default the first.
        measure: whether to measure the merged model on the test rows of the run.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.

    Returns:
        How the scores of the test rows change, each with its interval; empty if they were not measured.

    Raises:
        UserError: there is no such adapter, the folder is not empty, or the adapter cannot be merged.
    """
    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.adapters.merging import Merger
    from adapterzoo.machine.quiet import quiet_libraries
    from adapterzoo.running.progress import notebook_reporter

    adapter = find_adapter(Path(folder), method, seed, trust_remote_code)
    with quiet_libraries():
        return Merger(notebook_reporter().say, measure=measure).merge(adapter, Path(to))


def export(
    folder: str | Path,
    method: str,
    to: str | Path,
    *,
    rank: int | None = None,
    keep: float | None = None,
    seed: int | None = None,
    measure: bool = True,
    trust_remote_code: bool = False,
) -> Export:
    """Write an adapter of any method that can be merged in the form that servers of many adapters load.

    Args:
        folder: output folder of a run.
        method: label or name of the method.
        to: the folder to write.
        rank: rank of the written adapter; by default the smallest that is needed.
        keep: share of the update that each layer has to keep, instead of a rank.
        seed: seed of the adapter; by default the first.
        measure: whether to measure what is written on the test rows of the run.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.

    Raises:
        UserError: there is no such adapter, the folder is not empty, or the adapter cannot be written in that form.
    """
    from adapterzoo.adapters.exporting import export_lora
    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.machine.quiet import quiet_libraries
    from adapterzoo.running.progress import notebook_reporter

    adapter = find_adapter(Path(folder), method, seed, trust_remote_code)
    with quiet_libraries():
        return export_lora(adapter, Path(to), notebook_reporter().say, rank=rank, keep=keep, measure=measure)
