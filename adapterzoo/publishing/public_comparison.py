"""Make the comparison of a run without what is private in it: local paths, and the names of machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo.comparison import compare
from adapterzoo.comparison.comparison import Block, Comparison
from adapterzoo.publishing.privacy import Scrubber

if TYPE_CHECKING:
    from adapterzoo.comparison.evidence import Evidence
    from adapterzoo.comparison.ranking import PairedRows


def public_comparison(folder: Path, scrubber: Scrubber) -> Comparison:
    """Return the comparison of an output folder as it may be published.

    Raises:
        UserError: the folder holds no results that can be read.
    """
    found = compare(folder.resolve())  # a relative path could name other folders, and none could be replaced in it
    return Comparison(
        [_block(block, scrubber) for block in found.blocks],
        found.against,
        scrubber.value(found.unfinished),
        scrubber.value(found.times),
        scrubber.value(found.damaged),
    )


def _block(block: Block, scrubber: Scrubber) -> Block:
    """Return a block whose rows and results have no private texts; the scores stay the same objects."""
    evidence = [
        replace(of_row, row=scrubber.value(of_row.row), results=scrubber.value(of_row.results))
        for of_row in block.evidence
    ]
    by_label = dict(zip((of_row.row.label for of_row in block.evidence), evidence, strict=True))
    pairs = {metric: _pairs(paired, by_label, scrubber) for metric, paired in block.pairs.items()}
    return Block(
        scrubber.value(block.differs),
        scrubber.value(block.costs_differ),
        block.fingerprints,
        scrubber.value(block.environment),
        evidence,
        pairs,
    )


def _pairs(paired: PairedRows, by_label: Mapping[str, Evidence], scrubber: Scrubber) -> PairedRows:
    """Return the differences of all pairs of rows, by the labels that are published."""
    return replace(
        paired,
        scored={scrubber.value(label): by_label[label] for label in paired.scored},
        labels=scrubber.value(paired.labels),
        differences={
            (scrubber.value(first), scrubber.value(second)): difference
            for (first, second), difference in paired.differences.items()
        },
        best=scrubber.value(paired.best),
    )
