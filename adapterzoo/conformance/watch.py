"""What watches a training from inside: callbacks of the trainer, and watchers of callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Gradients:
    """Which trained parameters never got a gradient that is not zero."""

    def __init__(self, names: set[str]) -> None:
        self.missing = set(names)

    def callback(self) -> Any:
        """For the trainer: looks before each optimizer step."""
        from transformers import TrainerCallback

        watching = self

        class Look(TrainerCallback):  # type: ignore[misc]  # transformers is not followed for types
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
                for name, parameter in model.named_parameters():
                    if name in watching.missing and parameter.grad is not None and parameter.grad.any():
                        watching.missing.discard(name)

        return Look()


def keep_one(step: int) -> Any:
    """Saves at one step alone: at the end the trainer would save once more, and leave nothing to resume."""
    from transformers import TrainerCallback

    class Once(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_save = control.should_save and state.global_step == step

    return Once()


def watched(callback: Any) -> list[str]:
    """Makes a callback write down the events it is called for."""
    from transformers import TrainerCallback

    fired: list[str] = []

    def recording(event: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def record(*arguments: Any, **keywords: Any) -> Any:
            fired.append(event)
            return call(*arguments, **keywords)

        return record

    for event in dir(TrainerCallback):
        if event.startswith("on_") and getattr(type(callback), event) is not getattr(TrainerCallback, event):
            setattr(callback, event, recording(event, getattr(callback, event)))
    return fired
