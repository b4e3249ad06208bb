"""The properties of a sound method: one function for each property, which checks what was observed.

A function returns None if the property holds, ``NOT_CHECKED`` if the method declares that the property does not apply,
and otherwise what is wrong, with numbers and a hint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from adapterzoo.conformance.batch_properties import generates, rows_alone, shares_a_prefix
from adapterzoo.conformance.differences import (
    NOT_CHECKED,
    describe_error,
    first_few,
    logits_problem,
    tensors_problem,
    tolerance,
)
from adapterzoo.conformance.observation import Observation
from adapterzoo.conformance.saving_properties import merges, other_options, resumes, saves, works_elsewhere
from adapterzoo.conformance.trial import MIN_LOSS_FALL, STEPS
from adapterzoo.methods.contract import Method

# Accept that quantization changes a method's effect up to this many times as much as it changes the base's logits.
MAX_QUANTIZATION_RATIO = 3
# Accept this difference of logits in bfloat16, as a share of their standard deviation.
BFLOAT16_TOLERANCE = 0.05

Check = Callable[[Method[Any], Observation], str | None]


def wraps(method: Method[Any], observed: Observation) -> str | None:
    """Check that the method wraps the model and leaves parameters to train."""
    if "problems" in observed.errors:
        return describe_error(observed.errors["problems"])
    if "wrap" in observed.errors:
        return f"wrapping raised {describe_error(observed.errors['wrap'])}"
    return None if observed.trainable else "wrap() left no parameter with requires_grad: nothing would be trained"


def starts_at_base(method: Method[Any], observed: Observation) -> str | None:
    """Check that the wrapped model answers like the base before training."""
    if not method.starts_at_base:
        return NOT_CHECKED
    hint = "see wrap(), or declare starts_at_base = False"
    which = "of the untrained model and the base"
    problem = logits_problem(observed, "start", "base", tolerance(observed), which, hint)
    if problem or "start, other seed" not in observed.logits:
        return problem
    which = "of the untrained model and the base, with another seed,"
    return logits_problem(observed, "start, other seed", "base, other seed", tolerance(observed), which, hint)


def trains(method: Method[Any], observed: Observation) -> str | None:
    """Check that training runs to its end."""
    return f"training raised {describe_error(observed.errors['train'])}" if "train" in observed.errors else None


def learns(method: Method[Any], observed: Observation) -> str | None:
    """Check that training lowers the loss on rows that can be memorised."""
    first, last = observed.losses
    if observed.steps == STEPS and math.isfinite(last) and last < first * (1 - MIN_LOSS_FALL):
        return None
    return (
        f"after {observed.steps} of {STEPS} steps on the same four rows, the loss went from {first:.4f} to {last:.4f}; "
        f"it should fall by {MIN_LOSS_FALL:.1%}. See the learning_rate ({method.learning_rate:g}), "
        "and what forward() uses"
    )


def same_when_quantized(method: Method[Any], observed: Observation) -> str | None:
    """Check that the method has the same effect on a quantized base, except for the error of quantization itself."""
    if "plain" in observed.errors:
        return f"on the base without quantization it raised {describe_error(observed.errors['plain'])}"
    if "plain trained" not in observed.logits:
        return NOT_CHECKED
    logits = observed.logits
    base_change = (logits["base"] - logits["plain base"]).norm().item()
    plain = logits["plain trained"] - logits["plain base"]
    for name, allowed in (
        ("start", MAX_QUANTIZATION_RATIO * base_change),
        ("trained", MAX_QUANTIZATION_RATIO * base_change + plain.norm().item()),
    ):
        quantized = logits[name] - logits["base"]
        gap = (quantized - (logits[f"plain {name}"] - logits["plain base"])).norm().item()
        if not gap <= allowed:
            when = "before training" if name == "start" else "after the same training"
            return (
                f"{when}, its effect on the logits over {observed.quantization} differs by {gap:.2g} from that without "
                f"quantization (norm of all logits; allowed: {allowed:.2g}; the quantization itself changes them by "
                f"{base_change:.2g}); the weight of a quantized layer holds codes, not numbers: call the layer, or "
                "dequantize"
            )
    return None


def bfloat16(method: Method[Any], observed: Observation) -> str | None:
    """Check that the method works on a base in bfloat16, and that the parameters it trains are float32."""
    if "bfloat16" in observed.errors:
        return f"over a base in bfloat16 it raised {describe_error(observed.errors['bfloat16'])}"
    other = [dtype for dtype in observed.dtypes if dtype != "float32"]
    if other:
        small = any(dtype in ("bfloat16", "float16") for dtype in other)
        why = (
            "steps of less than a 256th of a weight would round to nothing"
            if small
            else "other methods train in float32, and compute with less precision than this one"
        )
        return f"over a base in bfloat16 it trains parameters in {', '.join(other)}: {why}; make them float32 in wrap()"
    if method.changes_base:
        return None  # what it takes out of a weight was rounded, so its adapter does not fit the whole weight exactly
    allowed = BFLOAT16_TOLERANCE * observed.logits["bfloat16"].std().item()
    hint = "save() or load() loses something"
    which = "before saving and after loading, over a base in bfloat16,"
    return logits_problem(observed, "bfloat16", "bfloat16 loaded", allowed, which, hint)


def gradients(method: Method[Any], observed: Observation) -> str | None:
    """Check that every trainable parameter gets a gradient."""
    if not observed.without_gradient:
        return None
    return (
        f"{len(observed.without_gradient)} trainable parameters had no gradient except zero in {STEPS} steps, like "
        f"{first_few(observed.without_gradient)}; use them in forward(), or set requires_grad = False in wrap()"
    )


def base_untouched(method: Method[Any], observed: Observation) -> str | None:
    """Check that training leaves the weights of the base the same, bit for bit."""
    if method.changes_base:
        return NOT_CHECKED
    if not observed.changed:
        return None
    return (
        f"{len(observed.changed)} tensors of the base were changed, like {first_few(observed.changed)}; "
        "freeze them in wrap(), or declare changes_base = True"
    )


def keeps_rules(method: Method[Any], observed: Observation) -> str | None:
    """Check that training keeps the rules of the comparison, apart from those that the method declares."""
    if "labels" in observed.errors:
        return f"with other labels, training raised {describe_error(observed.errors['labels'])}"
    if observed.labels_gap > tolerance(observed):
        return f"in training, its logits differ by {observed.labels_gap:.2g} with other labels, which are for the loss"
    if not observed.broken_rules:
        return None
    broken = "; ".join(f"it {what}" for what in observed.broken_rules.values())
    names = ", ".join(f'"{rule}"' for rule in observed.broken_rules)
    return (
        f"{broken}. In a run, its row would not be ranked; if this is what the method is, declare "
        f"departs_from = ({names},)"
    )


def leaves_nothing_behind(method: Method[Any], observed: Observation) -> str | None:
    """Check that nothing outside of the model stays changed: libraries, settings, and the method object itself."""
    if not observed.left_behind:
        return None
    names = first_few(observed.left_behind)
    return f"it changed {len(observed.left_behind)} things that stay for the next method, like {names}"


def findings(method: Method[Any], observed: Observation) -> str | None:
    """Check that the method's findings can be written as JSON."""
    return f"findings() raised {describe_error(observed.errors['findings'])}" if "findings" in observed.errors else None


def callbacks_fire(method: Method[Any], observed: Observation) -> str | None:
    """Check that each training callback is called."""
    if type(method).callbacks is Method.callbacks:
        return NOT_CHECKED
    if not observed.silent_callbacks:
        return None
    return (
        f"{', '.join(observed.silent_callbacks)} was never called in {STEPS} steps; "
        "its functions must have the names of those of transformers.TrainerCallback"
    )


def size_changes(method: Method[Any], observed: Observation) -> str | None:
    """Check that the size option changes the number of trained parameters."""
    if method.size_option is None:
        return NOT_CHECKED
    if "size" in observed.errors:
        return f"another value of {method.size_option} raised {describe_error(observed.errors['size'])}"
    counts = list(observed.sizes.values())
    # Some methods cannot become larger than the layers that they adapt, so two of three values may have the same size.
    if len(set(counts)) > 1 and counts in (sorted(counts), sorted(counts, reverse=True)):
        return None
    tried = ", ".join(f"{value} -> {count:,}" for value, count in observed.sizes.items())
    if len(set(counts)) == 1:
        only = "; no other value was accepted" if len(counts) == 1 else ""
        what = f"does not change how many parameters are trained ({tried}{only})"
    else:
        what = f"neither raises nor lowers how many parameters are trained ({tried})"
    return f"{method.size_option} {what}; see size_option"


def repeats(method: Method[Any], observed: Observation) -> str | None:
    """Check that two runs with the same seed give the same weights, bit for bit."""
    if "again" in observed.errors:
        return f"the second run raised {describe_error(observed.errors['again'])}"
    return tensors_problem(
        observed.first,
        observed.again,
        "after a second run with the same seed",
        "draw from torch's generator, which is seeded before wrap()",
    )


PROPERTIES: dict[str, Check] = {
    check.__name__.replace("_", " "): check
    for check in (
        wraps,
        starts_at_base,
        trains,
        learns,
        same_when_quantized,
        bfloat16,
        gradients,
        base_untouched,
        keeps_rules,
        rows_alone,
        shares_a_prefix,
        generates,
        saves,
        merges,
        works_elsewhere,
        other_options,
        leaves_nothing_behind,
        findings,
        callbacks_fire,
        size_changes,
        resumes,
        repeats,
    )
}


def check_properties(method: Method[Any], observed: Observation) -> dict[str, str | None]:
    """Return property -> what is wrong; None if it holds, ``NOT_CHECKED`` if it was not checked."""
    verdicts: dict[str, str | None] = {}
    stopped = False
    for name, check in PROPERTIES.items():
        left_out = observed.hung and check in (bfloat16, size_changes, resumes, repeats)
        verdicts[name] = NOT_CHECKED if stopped or left_out else check(method, observed)
        # The further properties need a model that was wrapped and trained.
        stopped = stopped or (check in (wraps, trains) and verdicts[name] is not None)
    return verdicts
