"""What a sound method does: one function a property, each judging what was observed.

A function returns nothing where the property holds, ``NOT_ASKED`` where the method declares that it does not apply,
and else what was found, with the numbers, and where to look.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from adapterzoo.conformance.differences import differ, distance, said, same, some, tolerance
from adapterzoo.conformance.observe import SAVED_AT, STEPS, Observed
from adapterzoo.methods.contract import Method

NOT_ASKED = "-"
# The same after a merge, as a share of what the adapter changes: into 8 bits, the merged weights are rounded again.
MERGE_TOLERANCE = {"none": 1e-3, "int8": 0.15, "nf4": 0.15}
# How much further than the base's own logits what a method changes may move when the base is quantized.
QUANTIZATION = 3
# By how much the loss on four rows has to fall in twelve steps at the method's own rate, as a share of itself.
LEARNED = 0.001
# Accept this relative difference of losses and gradients, because sums are added up in another order.
SHARED_PREFIX = 1e-5
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

Judge = Callable[[Method[Any], Observed], str | None]


def wraps(method: Method[Any], seen: Observed) -> str | None:
    """The method wraps the model, and something is left to train."""
    if "problems" in seen.errors:
        return said(seen.errors["problems"])
    if "wrap" in seen.errors:
        return f"wrapping raised {said(seen.errors['wrap'])}"
    return None if seen.trainable else "wrap() left no parameter with requires_grad: nothing would be trained"


def starts_at_base(method: Method[Any], seen: Observed) -> str | None:
    """Before training, the wrapped model answers like the base."""
    if not method.starts_at_base:
        return NOT_ASKED
    hint = "see wrap(), or declare starts_at_base = False"
    return differ(seen, "start", "base", tolerance(seen), "untrained and the base's", hint)


def trains(method: Method[Any], seen: Observed) -> str | None:
    """Training runs to its end."""
    return f"training raised {said(seen.errors['train'])}" if "train" in seen.errors else None


def learns(method: Method[Any], seen: Observed) -> str | None:
    """Training lowers the loss on rows that can be memorised."""
    first, last = seen.losses
    if seen.steps == STEPS and math.isfinite(last) and last < first * (1 - LEARNED):
        return None
    return (
        f"{seen.steps} of {STEPS} steps on the same four rows took the loss from {first:.4f} to {last:.4f}; it should "
        f"fall by {LEARNED:.1%}. See the learning_rate ({method.learning_rate:g}), and what forward() uses"
    )


def same_when_quantized(method: Method[Any], seen: Observed) -> str | None:
    """Over a quantized base it begins and ends where it does over the plain one, but for the quantization."""
    if "plain" in seen.errors:
        return f"over the plain base it raised {said(seen.errors['plain'])}"
    if "plain trained" not in seen.logits:
        return NOT_ASKED
    logits = seen.logits
    quantization = (logits["base"] - logits["plain base"]).norm().item()
    plain = logits["plain trained"] - logits["plain base"]
    for name, allowed in (
        ("start", QUANTIZATION * quantization),
        ("trained", QUANTIZATION * quantization + plain.norm().item()),
    ):
        quantized = logits[name] - logits["base"]
        gap = (quantized - (logits[f"plain {name}"] - logits["plain base"])).norm().item()
        if not gap <= allowed:
            when = "untrained" if name == "start" else "trained alike"
            return (
                f"{when}, what it changes over {seen.quantization} is {gap:.2g} away from what it changes over the "
                f"plain base (norm of all logits; allowed: {allowed:.2g}, the quantization alone makes "
                f"{quantization:.2g}); a quantized layer's "
                "weight holds codes, not numbers: call the layer, or dequantize"
            )
    return None


def bfloat16(method: Method[Any], seen: Observed) -> str | None:
    """Over a base in bfloat16 it trains and answers, and what it trains is float32."""
    if "bfloat16" in seen.errors:
        return f"over a base in bfloat16 it raised {said(seen.errors['bfloat16'])}"
    if seen.dtypes == ["float32"]:
        return None
    return (
        f"over a base in bfloat16 it trains parameters in {', '.join(seen.dtypes)}: steps of less than a "
        "256th of a weight would round to nothing; make them float32 in wrap()"
    )


def gradients(method: Method[Any], seen: Observed) -> str | None:
    """Every trainable parameter gets a gradient."""
    if not seen.without_gradient:
        return None
    return (
        f"{len(seen.without_gradient)} trainable parameters had no gradient but zero in {STEPS} steps, like "
        f"{some(seen.without_gradient)}; "
        "use them in forward(), or set requires_grad = False in wrap()"
    )


def base_untouched(method: Method[Any], seen: Observed) -> str | None:
    """The base's weights are bit for bit what they were, after training."""
    if method.changes_base:
        return NOT_ASKED
    if not seen.changed:
        return None
    return (
        f"{len(seen.changed)} tensors of the base were changed, like {some(seen.changed)}; "
        "freeze them in wrap(), or declare changes_base = True"
    )


def rows_alone(method: Method[Any], seen: Observed) -> str | None:
    """A row's answers do not depend on the rows beside it, nor on padding."""
    if "padding" in seen.errors:
        return f"forward() raised {said(seen.errors['padding'])} for a single row"
    if seen.quantization == "int8":
        return NOT_ASKED  # its arithmetic treats the batch as one: the base itself wavers
    allowed = tolerance(seen) + 4 * distance(seen, "base", "base alone")
    hint = "see how forward() treats attention_mask and position_ids: padding is on the left"
    return differ(seen, "alone", "trained", allowed, "of a row with and without others beside it", hint)


def shares_a_prefix(method: Method[Any], seen: Observed) -> str | None:
    """In one sequence with a shared prefix, rows have the loss and the gradients that they have with padding."""
    if not method.token_wise or seen.quantization == "int8":
        return NOT_ASKED
    if "joined" in seen.errors:
        return (
            f"it raised {said(seen.errors['joined'])}; where it does not take each token by itself, token_wise = False"
        )
    if seen.joined_gap is None or seen.joined_gap <= SHARED_PREFIX:
        return None
    return (
        f"losses or gradients differ by {seen.joined_gap:.2g} of themselves (allowed: {SHARED_PREFIX:g}); see whether "
        "forward() draws random numbers or looks at other tokens, or declare token_wise = False"
    )


def generates(method: Method[Any], seen: Observed) -> str | None:
    """``generate``, with its cache, answers what plain forward passes would."""
    if "generate" in seen.errors:
        return f"generate() raised {said(seen.errors['generate'])}"
    # Of likely tokens that are as good as tied, rounding may choose either.
    allowed = 10 * tolerance(seen) + 4 * distance(seen, "base", "base alone")
    if seen.behind is None or seen.behind <= allowed:
        return None
    return (
        f"generate() chose a token that is {seen.behind:.2g} behind the likeliest one of a forward pass "
        f"(allowed: {allowed:.2g}); see how the adapter meets past_key_values and positions"
    )


def saves(method: Method[Any], seen: Observed) -> str | None:
    """What is saved, loaded on an untouched base, gives the same logits; and holds no pickle."""
    if "save" in seen.errors:
        return f"save() raised {said(seen.errors['save'])}"
    if pickles := [name for name in seen.files if name.endswith(PICKLES)]:
        return f"save() wrote {', '.join(pickles)}: pickles run code when they are loaded; write safetensors"
    if not any(name.endswith(".safetensors") for name in seen.files):
        return f"save() wrote no safetensors into its folder (there is: {', '.join(seen.files) or 'nothing'})"
    if "load" in seen.errors:
        return f"load() raised {said(seen.errors['load'])}"
    return differ(
        seen, "loaded", "trained", tolerance(seen), "saved and loaded again", "one of the two loses something"
    )


def merges(method: Method[Any], seen: Observed) -> str | None:
    """Merged into the base, the model gives the same logits; or the method declares that it does not merge."""
    if seen.quantization not in method.mergeable_into:
        return NOT_ASKED
    if "merge" in seen.errors:
        return f"merge() raised {said(seen.errors['merge'])}; take '{seen.quantization}' out of merges if it cannot"
    if seen.merged:
        return f"merge() left {len(seen.merged)} parameters too many or too few, like {some(seen.merged)}"
    gap, effect = distance(seen, "merged", "trained"), distance(seen, "trained", "base")
    share = gap / effect if effect else math.inf
    if share <= MERGE_TOLERANCE[seen.quantization]:
        return None
    return (
        f"merged, the logits differ by {gap:.2g}, {share:.1%} of what the adapter changes "
        f"(allowed: {MERGE_TOLERANCE[seen.quantization]:.1%}); see merge(), or take '{seen.quantization}' out of merges"
    )


def findings(method: Method[Any], seen: Observed) -> str | None:
    """What it says it found can be written as JSON."""
    return f"findings() raised {said(seen.errors['findings'])}" if "findings" in seen.errors else None


def callbacks_fire(method: Method[Any], seen: Observed) -> str | None:
    """Each training callback is called."""
    if type(method).callbacks is Method.callbacks:
        return NOT_ASKED
    if not seen.silent_callbacks:
        return None
    return (
        f"{', '.join(seen.silent_callbacks)} was never called in {STEPS} steps; "
        "the names of its methods must be those of transformers.TrainerCallback"
    )


def size_changes(method: Method[Any], seen: Observed) -> str | None:
    """The size option changes the number of trained parameters."""
    if method.size_option is None:
        return NOT_ASKED
    if "size" in seen.errors:
        return f"another {method.size_option} raised {said(seen.errors['size'])}"
    if len(set(seen.sizes.values())) > 1:
        return None
    tried = ", ".join(f"{value} -> {count:,}" for value, count in seen.sizes.items())
    return f"{method.size_option} does not change how many parameters are trained ({tried}); see size_option"


def resumes(method: Method[Any], seen: Observed) -> str | None:
    """Training that goes on from a checkpoint ends with the same weights."""
    if not method.resumes:
        return NOT_ASKED
    if "resume" in seen.errors:
        return f"going on from step {SAVED_AT} raised {said(seen.errors['resume'])}"
    return same(
        seen.first,
        seen.resumed,
        f"gone on from step {SAVED_AT}",
        "keep what training needs in parameters or buffers, or declare resumes = False",
    )


def repeats(method: Method[Any], seen: Observed) -> str | None:
    """Two runs of one seed give the same weights, bit for bit."""
    if "again" in seen.errors:
        return f"the second run raised {said(seen.errors['again'])}"
    return same(
        seen.first,
        seen.again,
        "run again with the same seed",
        "draw from torch's generator, which is seeded before wrap()",
    )


PROPERTIES: dict[str, Judge] = {
    judge.__name__.replace("_", " "): judge
    for judge in (
        wraps,
        starts_at_base,
        trains,
        learns,
        same_when_quantized,
        bfloat16,
        gradients,
        base_untouched,
        rows_alone,
        shares_a_prefix,
        generates,
        saves,
        merges,
        findings,
        callbacks_fire,
        size_changes,
        resumes,
        repeats,
    )
}


def judge(method: Method[Any], seen: Observed) -> dict[str, str | None]:
    """Property -> what is wrong, None where it holds, ``NOT_ASKED`` where it was not reached or does not apply."""
    verdicts: dict[str, str | None] = {}
    stopped = False
    for name, check in PROPERTIES.items():
        verdicts[name] = NOT_ASKED if stopped else check(method, seen)
        # Without a wrapped model, or a trained one, there is nothing more to judge.
        stopped = stopped or (check in (wraps, trains) and verdicts[name] is not None)
    return verdicts
