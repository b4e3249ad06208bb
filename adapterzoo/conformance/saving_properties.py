"""The properties of a sound method that concern saved adapters: saving, loading, merging and resuming.

The functions are like those in ``properties.py``, which lists all properties.
"""

from __future__ import annotations

import math
from typing import Any

from adapterzoo.conformance.differences import (
    NOT_CHECKED,
    describe_error,
    distance,
    first_few,
    logits_problem,
    merge_tolerance,
    tensors_problem,
    tolerance,
)
from adapterzoo.conformance.observation import Observation
from adapterzoo.conformance.trial import SAVED_AT
from adapterzoo.conformance.variants import variant_problem
from adapterzoo.methods.contract import Method

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def saves(method: Method[Any], observed: Observation) -> str | None:
    """Check that a saved adapter, loaded on an untouched base, gives the same logits, and holds no pickle."""
    if "save" in observed.errors:
        return f"save() raised {describe_error(observed.errors['save'])}"
    if pickles := [name for name in observed.files if name.endswith(PICKLES)]:
        return f"save() wrote {', '.join(pickles)}: pickles run code when they are loaded; write safetensors"
    if not observed.has_safetensors:
        return f"save() wrote no safetensors into its folder, but {', '.join(observed.files) or 'nothing'}"
    if observed.saved_base:
        few = first_few(observed.saved_base)
        return f"save() wrote {len(observed.saved_base)} weights of the base, like {few}; save what the adapter adds"
    if "load" in observed.errors:
        return f"load() raised {describe_error(observed.errors['load'])}"
    which, hint = "before saving and after loading", "save() or load() loses something"
    return logits_problem(observed, "loaded", "trained", tolerance(observed), which, hint)


def merges(method: Method[Any], observed: Observation) -> str | None:
    """Check that the merged model gives the same logits."""
    if observed.quantization not in method.mergeable_into:
        return NOT_CHECKED
    hint = f"take '{observed.quantization}' out of mergeable_into"
    if "merge" in observed.errors:
        return f"merge() raised {describe_error(observed.errors['merge'])}; if it cannot merge, {hint}"
    if observed.merged:
        return f"merge() added or removed {len(observed.merged)} parameters, like {first_few(observed.merged)}"
    gap, effect = distance(observed, "merged", "trained"), distance(observed, "trained", "base")
    share, allowed = gap / effect if effect else math.inf, merge_tolerance(observed.quantization)
    if share <= allowed:
        return None
    return (
        f"after merging, the logits differ by {gap:.2g}, {share:.1%} of the adapter's effect (allowed: {allowed:.1%}); "
        f"see merge(), or {hint}"
    )


def works_elsewhere(method: Method[Any], observed: Observation) -> str | None:
    """Check that a saved adapter, whose folder was moved, gives the same logits in another process and at another time.

    The other process has another hash seed, working directory, date and state of the random generators. A merged model
    is loaded by transformers alone, and an adapter by PEFT alone too if the method declares ``loads_in_peft``.
    """
    if "save" in observed.errors or not observed.findable:
        return NOT_CHECKED
    if "elsewhere" in observed.errors:
        return f"in another process, {observed.errors['elsewhere']}"
    hint = "keep what load() needs in the folder, in options or in context, and nowhere else"
    for found, here in (("elsewhere", "trained"), ("elsewhere, many rows", "many rows")):
        if found in observed.logits and here in observed.logits:
            which = "here and in another process, from a folder that was moved,"
            if problem := logits_problem(observed, found, here, tolerance(observed), which, hint):
                return problem
    if "in plain PEFT" in observed.logits:
        which, hint = "here and as plain PEFT loads it", "save what PEFT needs, or declare loads_in_peft = False"
        if problem := logits_problem(observed, "in plain PEFT", "alone", tolerance(observed), which, hint):
            return problem
    if "merged elsewhere" in observed.logits:
        which = "of the merged model here, and as transformers loads it in another process,"
        hint = "merge() must leave everything in the base's own parameters"
        return logits_problem(observed, "merged elsewhere", "merged", tolerance(observed), which, hint)
    return None


def other_options(method: Method[Any], observed: Observation) -> str | None:
    """Check that a method learns, saves, loads and merges with other options, another seed and other settings too."""
    if not observed.variants:
        return NOT_CHECKED
    found = (variant_problem(observed.quantization, variant) for variant in observed.variants)
    problems = [problem for problem in found if problem][:1]
    if "effects" in observed.errors:
        problems.append(f"trying each option alone raised {describe_error(observed.errors['effects'])}")
    return "; ".join([*problems, *observed.missing_effects]) or None


def resumes(method: Method[Any], observed: Observation) -> str | None:
    """Check that training resumed from a checkpoint ends with the same weights."""
    if not method.resumes:
        return NOT_CHECKED
    if "resume" in observed.errors:
        return f"resuming from step {SAVED_AT} raised {describe_error(observed.errors['resume'])}"
    return tensors_problem(
        observed.first,
        observed.resumed,
        f"after resuming from step {SAVED_AT}",
        "keep what training needs in parameters or buffers, or declare resumes = False",
    )
