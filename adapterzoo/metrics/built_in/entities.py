"""Entity F1: the entities that tags mark are compared as wholes, as the CoNLL shared tasks do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric

OUTSIDE = "O"
"""tag of a word that is in no entity"""
PREFIXED = re.compile(r"[BIES]-.+")


def entity_f1(reference: str, answer: str) -> float:
    """Return the F1 of the entities of one example; 1 if neither text has an entity."""
    if not _has_entities(reference) and not _has_entities(answer):
        return 1.0
    return total_entity_f1([reference], [answer])


def total_entity_f1(references: Sequence[str], answers: Sequence[str]) -> float:
    """Return the F1 of all entities together (micro), by the CoNLL rule: seqeval's default mode.

    Tags are separated by spaces. An entity is right if its first word, its last word and its type are right. Tags
    without a prefix are entities of one word each. An answer without a tag for a word has ``O`` there.
    """
    from seqeval.metrics import f1_score

    pairs = [
        list(zip_longest(reference.split(), answer.split(), fillvalue=OUTSIDE))
        for reference, answer in zip(references, answers, strict=True)
    ]
    wanted, given = ([[_prefixed(tags[side]) for tags in row] for row in pairs] for side in (0, 1))
    return float(f1_score(wanted, given, zero_division=0))


def _has_entities(tags: str) -> bool:
    return any(tag != OUTSIDE for tag in tags.split())


def _prefixed(tag: str) -> str:
    """Return a tag with the prefix that makes it an entity of its own, if it has none."""
    return tag if tag == OUTSIDE or PREFIXED.fullmatch(tag) else f"B-{tag}"


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metric of this module."""
    summary = "F1 of all entities together (0 to 1), where type and both ends must be right, by the CoNLL rule"
    style = ColumnStyle("entity F1", ".3f", "entity F1: type and both ends must be right", (0.0, 1.0))
    return [Metric("entity_f1", entity_f1, summary, total=total_entity_f1, styles={"entity_f1": style})]
