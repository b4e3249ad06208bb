"""Watch a training from inside, with callbacks of the trainer and by recording the calls of a method's callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class GradientWatcher:
    """The names of the trained parameters that have had no gradient except zero so far."""

    def __init__(self, names: set[str]) -> None:
        self.missing = set(names)

    def callback(self) -> Any:
        """Return a callback for the trainer that looks at the gradients before each optimizer step."""
        from transformers import TrainerCallback

        missing = self.missing

        class WatchGradients(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers' types
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
                for name, parameter in model.named_parameters():
                    if name in missing and parameter.grad is not None and parameter.grad.any():
                        missing.discard(name)

        return WatchGradients()


def save_only_at(step: int) -> Any:
    """Return a callback that lets the trainer save at one step only.

    Otherwise the trainer would save again at the end, and there would be nothing left to train after resuming.
    """
    from transformers import TrainerCallback

    class SaveOnlyAt(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_save = control.should_save and state.global_step == step

    return SaveOnlyAt()


def record_events(callback: Any) -> list[str]:
    """Make a callback record its calls, and return the list that the names of the events are appended to."""
    from transformers import TrainerCallback

    events: list[str] = []

    def recording(event: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def record(*arguments: Any, **keywords: Any) -> Any:
            events.append(event)
            return call(*arguments, **keywords)

        return record

    for event in dir(TrainerCallback):
        if event.startswith("on_") and getattr(type(callback), event) is not getattr(TrainerCallback, event):
            setattr(callback, event, recording(event, getattr(callback, event)))
    return events
