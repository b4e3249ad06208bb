"""Compile a wrapped model with torch.compile, and compare its loss and gradients with those of the model itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.batch_properties import SHARED_PREFIX_TOLERANCE
from adapterzoo.conformance.differences import describe_error
from adapterzoo.conformance.measure import relative_difference

if TYPE_CHECKING:
    import torch

    from adapterzoo.tasks.examples import Examples

# It captures the forward and the backward pass as torch.compile does for any backend, and then runs the same operations
# in the same order, so that only what was captured wrongly can differ. It needs no compiler.
BACKEND = "aot_eager"


def compiled_gap(model: Any, encoded: Examples, *, whole: bool) -> float:
    """Return the relative difference of loss and gradients between a model and the same model compiled.

    Args:
        model: the wrapped model.
        encoded: the rows of the batch.
        whole: whether the forward pass must be captured as one graph. Otherwise the graph is broken where some code
            cannot be captured, and that code runs as it is.

    Raises:
        torch._dynamo.exc.Unsupported: it cannot be captured as one graph.
    """
    import torch

    torch.compiler.reset()
    try:
        plain = _loss_and_gradients(model, model, encoded)
        captured = _loss_and_gradients(model, torch.compile(model, backend=BACKEND, fullgraph=whole), encoded)
    finally:
        torch.compiler.reset()
    return max(relative_difference(plain[part], captured[part]) for part in (slice(1), slice(1, None)))


def compile_problem(model: Any, encoded: Examples, *, whole: bool) -> str | None:
    """Return why a wrapped model cannot be compiled; None if it can. See :func:`compiled_gap`."""
    try:
        gap = compiled_gap(model, encoded, whole=whole)
    except Exception as error:  # torch.compile raises errors of many kinds
        return describe_error(error)
    return None if gap <= SHARED_PREFIX_TOLERANCE else f"its loss or gradients differ by a share of {gap:.1g}"


def _loss_and_gradients(model: Any, called: Any, encoded: Examples) -> torch.Tensor:
    """Return the loss of a batch and then all gradients, in one dimension; random numbers are always the same.

    Args:
        model: the model with the parameters.
        called: the model, or the compiled model, which has the same parameters.
        encoded: the rows of the batch.
    """
    import torch

    from adapterzoo.tokens.batches import to_device

    arguments = encoded.arguments(to_device(encoded.collate(encoded.train), model), model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()
    torch.manual_seed(0)
    loss = encoded.loss(called, arguments)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([loss.detach().reshape(1), *(g.reshape(-1) for g in gradients if g is not None)])
