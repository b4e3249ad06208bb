"""Reinforcement: a model answers prompts, and learns to give those of its answers that get a higher reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from adapterzoo_plugins.tasks._policy_losses import ReinforcementOptions
from adapterzoo_plugins.tasks._prompts import PROMPT, Asked, read_prompts
from adapterzoo_plugins.tasks._rewarding import failures
from adapterzoo_plugins.tasks._rollouts import METRIC, Rollouts
from adapterzoo_plugins.tasks._squad_metrics import line_problems

from adapterzoo import Problem, Task, hookimpl
from adapterzoo.data_row import DataRow, Turn
from adapterzoo.entry_points import BUILT_IN
from adapterzoo.metrics.registry import compares_answers
from adapterzoo.rewards.registry import rewards
from adapterzoo.tasks.contract import EncodeInput, Rows
from adapterzoo.tokens.kept_examples import read_splits

if TYPE_CHECKING:
    from adapterzoo.tokens.encode import Encoder

TRIED = 8  # number of training rows on which the rewards are tried before weights are loaded


class Reinforcement(Task[ReinforcementOptions]):
    """The task of learning from rewards."""

    name = "reinforcement"
    summary = "answers that get a high reward, among those that the model gives itself"
    options = ReinforcementOptions
    model_class = "AutoModelForCausalLM"
    task_type = "CAUSAL_LM"
    formats = {"prompt": PROMPT}  # noqa: RUF012  # the contract says that it is not changed
    metrics = (METRIC,)
    measured = (METRIC, "loss")
    uses = ("system", "chat_template")
    from_disk = True

    def packages(self, options: ReinforcementOptions) -> Sequence[str]:
        """See :meth:`Task.packages`: those of the rewards."""
        return sorted({rewards().package(name) for name in options.rewards} - {BUILT_IN})

    def model_problems(self, config: Any) -> list[Problem]:
        """See :meth:`Task.model_problems`."""
        return super().model_problems(config) or ([self.wrong_model(config)] if config.is_encoder_decoder else [])

    def problems(self, rows: Rows, options: ReinforcementOptions, metrics: Sequence[str]) -> list[Problem]:
        """See :meth:`Task.problems`: each reward is tried on the first rows."""
        known = rewards()
        unknown = [name for name in options.rewards if name not in known]
        if unknown:
            return [Problem("task.rewards", f"'{name}' is no known reward.", known.hint(name)) for name in unknown]
        alone = next((row for row in chain(rows.train, rows.validation, rows.test) if not row.completion), None)
        problems = []
        if alone is not None:
            hint = "Give a column 'answer', or choose another."
            compared = [("task.rewards", name) for name in options.rewards if known[name].needs_answer]
            compared += [("evaluate.metrics", name) for name in metrics if compares_answers(name)]
            problems = [
                Problem(where, f"'{name}' compares answers with the right ones, and {alone.place} has none.", hint)
                for where, name in compared
            ]
        problems += line_problems(rows, metrics) + line_problems(rows, [*options.rewards], "task.rewards")
        return problems or [*failures(rows.train[:TRIED], options)]

    def encode(self, given: EncodeInput[ReinforcementOptions]) -> Rollouts:
        """See :meth:`Task.encode`."""
        from adapterzoo.tokens.encode import Encoder

        encoder, options = Encoder(given.tokenizer, given.data, given.say), given.options
        longest = given.data.max_length - options.max_new_tokens
        splits = read_splits(given, partial(read_prompts, encoder=encoder, longest=longest), [Asked])
        end, pad = _end_token(encoder, given.rows.train[0]), encoder.pad_id
        tokens = encoder.tokenizer.convert_ids_to_tokens([pad, end])
        named = ", ".join(f"{name} x {weight:g}" for name, weight in options.rewards.items())
        return Rollouts(
            tokenizer=encoder.tokenizer,
            **splits,
            pad_id=pad,
            fingerprint=given.rows.fingerprint,
            facts=(
                f"loss {options.loss}; {options.answers} answers to a prompt, of up to {options.max_new_tokens} tokens",
                f"rewards: {named}",
                f"padding {tokens[0]}, never in the loss; an answer ends with {tokens[1]}",
            ),
            end_ids=sorted({end, encoder.tokenizer.eos_token_id}),
            answer_header=encoder.chat.answer_header,
            options=options,
        )


def _end_token(encoder: Encoder, row: DataRow) -> int:
    """Return the id of the token that ends an answer: the chat template's own, if it has one."""
    some_answer = replace(row, turns=(*row.turns[:-1], Turn("assistant", "an answer")))
    last = encoder.example(some_answer).completion[-1]
    return last if last in encoder.special_ids else int(encoder.tokenizer.eos_token_id)


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [Reinforcement()]
