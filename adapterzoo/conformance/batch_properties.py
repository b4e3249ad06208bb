"""The properties of a sound method that concern batches: other rows, padding, a shared prefix, and the cache.

The functions are like those in ``properties.py``, which lists all properties.
"""

from __future__ import annotations

from typing import Any

from adapterzoo.conformance.differences import NOT_CHECKED, describe_error, distance, logits_problem, tolerance
from adapterzoo.conformance.models import MANY_ROWS
from adapterzoo.conformance.observation import Observation
from adapterzoo.methods.contract import Method

# Accept this relative difference of losses and gradients, because sums are added up in another order.
SHARED_PREFIX_TOLERANCE = 1e-5


def rows_alone(method: Method[Any], observed: Observation) -> str | None:
    """Check that a row's answers do not depend on the rows beside it, nor on padding."""
    if "padding" in observed.errors:
        return f"forward() raised {describe_error(observed.errors['padding'])} for a single row"
    if observed.batch_dependent:
        return NOT_CHECKED
    many = f"of rows of up to {max(MANY_ROWS)} tokens in a batch of {len(MANY_ROWS)} and in batches of nine"
    hint = "see how forward() treats attention_mask and position_ids: padding is on the left"
    for first, second, base, base_alone, which in (
        ("alone", "trained", "base", "base alone", "of a row alone and beside other rows"),
        ("many rows", "many rows in nines", "base, many rows", "base, many rows in nines", many),
        (
            "equal rows",
            "equal rows alone",
            "base, equal rows",
            "base, equal rows alone",
            "of rows of one length in a batch without padding and alone",
        ),
    ):
        if first in observed.logits:
            allowed = tolerance(observed) + 4 * distance(observed, base, base_alone)
            if problem := logits_problem(observed, first, second, allowed, which, hint):
                return problem
    return None


def shares_a_prefix(method: Method[Any], observed: Observation) -> str | None:
    """Check that rows joined behind a shared prefix have the same loss and gradients as padded rows."""
    if not method.token_wise or observed.batch_dependent:
        return NOT_CHECKED
    hint = "if it does not treat each token alone, declare token_wise = False"
    if "shared prefix" in observed.errors:
        return f"it raised {describe_error(observed.errors['shared prefix'])}; {hint}"
    if observed.shared_prefix_gap is None or observed.shared_prefix_gap <= SHARED_PREFIX_TOLERANCE:
        return None
    return (
        f"the loss or the gradients differ by a share of {observed.shared_prefix_gap:.2g} (allowed: "
        f"{SHARED_PREFIX_TOLERANCE:g}); see whether forward() draws random numbers or looks at other tokens; {hint}"
    )


def generates(method: Method[Any], observed: Observation) -> str | None:
    """Check that ``generate``, with its cache, chooses the tokens that plain forward passes would."""
    if "generate" in observed.errors:
        return f"generate() raised {describe_error(observed.errors['generate'])}"
    # Between almost equally likely tokens, rounding may choose either.
    allowed = 10 * tolerance(observed) + 4 * distance(observed, "base", "base alone")
    if observed.greedy_gap is None or observed.greedy_gap <= allowed:
        return None
    return (
        f"generate() chose a token whose logit is {observed.greedy_gap:.2g} below the highest one of a forward pass "
        f"(allowed: {allowed:.2g}); see how the adapter treats past_key_values and positions"
    )
