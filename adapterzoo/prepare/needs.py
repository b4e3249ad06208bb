"""Hold the memory and the computation that a cell needs, and divide them among GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from adapterzoo.errors import UserError

MOMENTS = 2  # AdamW keeps two numbers for each trained parameter, in its dtype


@dataclass(frozen=True)
class Work:
    """The memory and the operations of a training step or of a batch of measuring; weights are not counted."""

    bytes: float
    """highest number of bytes that are held at the same time; for a step, with the gradients"""
    operations: float
    """floating-point operations of the matrix products"""

    def more_layers(self, other: Work, layers: float) -> Work:
        """Return the work with more layers.

        Args:
            other: the work with one layer more than this one has.
            layers: how many layers more.
        """
        return Work(
            self.bytes + (other.bytes - self.bytes) * layers,
            self.operations + (other.operations - self.operations) * layers,
        )


@dataclass(frozen=True)
class Weights:
    """The weights of a base model as they are stored."""

    bytes: float
    unpacked: float = 0.0
    """bytes of the largest quantized layer in the dtype of the computation, which exists while it computes"""


@dataclass(frozen=True)
class Needs:
    """The memory and the operations of a cell: its weights, one training step, one batch of measuring."""

    weights: Weights
    trained: int
    """number of trained parameters"""
    trained_bytes: int
    """bytes of the trained parameters"""
    step: Work
    """what a training step needs beside all weights: activations, logits, gradients"""
    measuring: Work
    """what a batch of answers needs beside all weights: activations, keys and values"""

    @property
    def training_bytes(self) -> float:
        """Return the highest memory use of training."""
        state = self.trained_bytes * (1 + MOMENTS)
        # The optimizer's step has no activations, but every gradient, and as much again for what it computes.
        return self._weights + state + max(self.step.bytes, 2 * self.trained_bytes)

    @property
    def measuring_bytes(self) -> float:
        """Return the highest memory use of measuring."""
        return self._weights + self.trained_bytes + self.measuring.bytes

    @property
    def peak_bytes(self) -> float:
        """Return the highest memory use of the cell."""
        return max(self.training_bytes, self.measuring_bytes)

    @property
    def _weights(self) -> float:
        return self.weights.bytes + self.weights.unpacked

    def more_layers(self, other: Needs, layers: float, weights: Weights) -> Needs:
        """Return the needs of a model with more layers.

        Args:
            other: the needs with one layer more than these have.
            layers: how many layers more.
            weights: the weights of the model.
        """
        return replace(
            self,
            weights=weights,
            trained=round(self.trained + (other.trained - self.trained) * layers),
            trained_bytes=round(self.trained_bytes + (other.trained_bytes - self.trained_bytes) * layers),
            step=self.step.more_layers(other.step, layers),
            measuring=self.measuring.more_layers(other.measuring, layers),
        )

    def gpus(self, bytes_each: float, share: float) -> int:
        """Return how many GPUs the cell needs if each holds a part of the base model, and all of everything else.

        Args:
            bytes_each: memory of a GPU.
            share: share of that memory that can be used.

        Raises:
            UserError: what each GPU has to hold alone is too large for any number of them.
        """
        room = bytes_each * share - (self.peak_bytes - self.weights.bytes)
        if room <= 0:
            what = "a batch with its activations is too large for one GPU."
            raise UserError.at("memory", what, "Make batches smaller, or set train.gradient_checkpointing: true.")
        return max(1, math.ceil(self.weights.bytes / room))
