"""Preference: a causal language model learns which of two answers is better, or which answers are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from adapterzoo_plugins.tasks._preferences import PREFERENCE, RANKED, UNPAIRED, WANTED, encode_pairs
from pydantic import Field

from adapterzoo import Options, Problem, Task, hookimpl
from adapterzoo.data_row import SPLIT_NAMES, DataRow
from adapterzoo.tasks.contract import EncodeInput, Rows
from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of_scores
from adapterzoo.tasks.examples import EvaluateSettings, Examples

if TYPE_CHECKING:
    import torch

    from adapterzoo.tokens.batches import Tokens

Loss = Literal["dpo", "ipo", "kto", "orpo", "simpo"]
WITH_BASE = ("dpo", "ipo", "kto")
"""losses that compare the model with the untouched base model"""
OWN_OPTIONS = {"simpo_gamma": "simpo", "desirable_weight": "kto", "undesirable_weight": "kto"}
"""option -> the only loss that uses it"""
EXTRA = ("of_base", "wanted", "mismatched")
"""what a batch has beside the arguments of the model"""
METRICS = ("likelihood_accuracy", "reward_accuracy", "reward_margin", "loss")
SURE = -1e-6  # the largest mean log-likelihood that the odds are computed for: those of a certain answer are infinite


class PreferenceOptions(Options):
    """The options of the task; their names and defaults are TRL's."""

    loss: Literal["auto", "dpo", "ipo", "kto", "orpo", "simpo"] = Field(
        "auto", description="what is minimised; auto = dpo for pairs of answers, kto for single answers with a label"
    )
    beta: float = Field(
        0.1, gt=0, description="how closely the model stays to the base model; for orpo the weight of the odds ratio"
    )
    simpo_gamma: float = Field(0.5, ge=0, description="simpo: the margin that is aimed at")
    desirable_weight: float = Field(1.0, gt=0, description="kto: weight of the answers that are wanted")
    undesirable_weight: float = Field(1.0, gt=0, description="kto: weight of the answers that are not wanted")


@dataclass(frozen=True, slots=True)
class Judged:
    """A prompt with its answers as token ids: the chosen and the rejected one, or only one that is wanted or not."""

    row: DataRow
    answers: tuple[Tokens, ...]
    """the prompt with each answer, which is what is learned of it"""
    wanted: tuple[bool, ...]
    """for each answer, whether it is wanted"""
    mismatched: tuple[Tokens, ...] = ()
    """for kto: for each answer, the prompt with an answer to another prompt"""
    of_base: tuple[float, ...] = ()
    """log-likelihood of each answer with the untouched base model, then of each mismatched one; empty until known"""

    @property
    def size(self) -> int:
        """Number of tokens of all answers, each with the prompt."""
        return sum(len(ids) for ids, _ in self.answers)

    @property
    def tokens(self) -> Tokens:
        """All token ids of the answers, one after the other, and whether each is in the loss."""
        ids = [token for ids, _ in self.answers for token in ids]
        return ids, [in_loss for _, learned in self.answers for in_loss in learned]

    @property
    def sequences(self) -> tuple[Tokens, ...]:
        """The answers, and then the mismatched ones."""
        return (*self.answers, *self.mismatched)


class Judgement(NamedTuple):
    """The log-likelihoods of the answers of some examples, as tensors of shape (answers of an example, examples)."""

    sums: torch.Tensor
    """log-likelihood of each answer"""
    counts: torch.Tensor
    """number of tokens of each answer"""
    of_base: torch.Tensor
    """log-likelihood of each answer with the untouched base model; zeros if the loss does not need it"""
    wanted: torch.Tensor
    """whether each answer is wanted"""

    @property
    def means(self) -> torch.Tensor:
        """Log-likelihood of each answer per token."""
        return self.sums / self.counts


@dataclass(frozen=True, kw_only=True)
class Judgements(Examples):
    """Prompts with answers that are better or worse."""

    loss_name: Loss
    options: PreferenceOptions

    @property
    def longest_row(self) -> int:
        """See :attr:`Examples.longest_row`."""
        examples: list[Judged] = [*self.train, *self.validation, *self.test]
        return max(len(ids) for example in examples for ids, _ in example.sequences)

    @property
    def asks_base(self) -> bool:
        """See :attr:`Examples.asks_base`."""
        return self.loss_name in WITH_BASE

    def ask_base(self, model: Any, settings: EvaluateSettings) -> dict[str, list[tuple[float, ...]]]:
        """See :meth:`Examples.ask_base`: the log-likelihoods of all answers, for each split."""
        answers = {}
        for split in SPLIT_NAMES:
            examples: list[Judged] = getattr(self, split)
            found = iter(self._measured(model, examples, settings))
            answers[split] = [tuple(-next(found).loss for _ in example.sequences) for example in examples]
        return answers

    @property
    def relative_metrics(self) -> Sequence[str]:
        """See :attr:`Examples.relative_metrics`: rewards that are rises over the base model."""
        return ("reward_accuracy", "reward_margin") if self.asks_base else ()

    def with_base(self, answer: dict[str, list[tuple[float, ...]]] | None) -> Self:
        """See :meth:`Examples.with_base`."""
        if not self.asks_base:
            return self
        splits: dict[str, Any] = {}
        for split in SPLIT_NAMES:
            examples: list[Judged] = getattr(self, split)
            known = answer[split] if answer else [(0.0,) * len(example.sequences) for example in examples]
            splits[split] = [replace(e, of_base=of_base) for e, of_base in zip(examples, known, strict=True)]
        return replace(self, **splits)

    def collate(self, rows: Sequence[Judged], prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.collate`: first the chosen answers of all rows, then the rejected ones.

        What is known of the untouched base model is in ``of_base``, of shape (sequences of a row, rows).
        """
        import torch
        from torch.nn import functional

        from adapterzoo.tokens.batches import IGNORED, pad_batch

        batch = pad_batch(_by_place([row.answers for row in rows]), self.pad_id)
        if self.loss_name == "orpo":  # it also learns the prompt, so it needs the output for all tokens
            width = batch["input_ids"].shape[1]
            batch["labels"] = functional.pad(batch["labels"], (width - batch["logits_to_keep"], 0), value=IGNORED)
            batch["logits_to_keep"] = width
        if rows[0].of_base:
            batch["of_base"] = torch.tensor([row.of_base for row in rows]).T.contiguous()
            batch["wanted"] = torch.tensor([row.wanted for row in rows]).T.contiguous()
        if rows[0].of_base and rows[0].mismatched:
            batch["mismatched"] = pad_batch(_by_place([row.mismatched for row in rows]), self.pad_id)
        return batch

    def arguments(self, batch: dict[str, Any], model: Any) -> dict[str, Any]:
        """See :meth:`Examples.arguments`; the loss takes out what is not for the model.

        Raises:
            RuntimeError: the untouched base model was not asked.
        """
        if self.asks_base and "of_base" not in batch:
            raise RuntimeError(f"{self.loss_name} needs what the untouched base model says: call with_base first")
        return batch

    def loss(self, model: Any, arguments: dict[str, Any]) -> torch.Tensor:
        """See :meth:`Examples.loss`: the mean over the examples of a batch."""
        import torch

        from adapterzoo.training.task_loss import task_loss

        batch = {name: value for name, value in arguments.items() if name not in EXTRA}
        of_base, wanted = arguments.get("of_base"), arguments.get("wanted")
        divergence = torch.zeros(())
        if "mismatched" in arguments:
            mismatched = arguments["mismatched"]
            with torch.no_grad():
                output = model(**{name: value for name, value in mismatched.items() if name != "labels"})
                sums, _ = _log_likelihoods(output.logits, mismatched)
            assert of_base is not None
            divergence = _divergence(sums - of_base[len(of_base) // 2 :].flatten())

        def loss(logits: torch.Tensor) -> torch.Tensor:
            sums, counts = _log_likelihoods(logits, batch)
            answers = 2 if of_base is None or wanted is None else len(wanted)
            shape = (answers, len(sums) // answers)
            sums = sums.view(shape)
            base = torch.zeros_like(sums) if of_base is None else of_base[:answers]
            judged = Judgement(sums, counts.view(shape), base, torch.zeros_like(sums) if wanted is None else wanted)
            text_loss = _text_loss(logits, batch, shape[1]) if self.loss_name == "orpo" else sums.new_zeros(())
            return self._losses(judged, divergence, text_loss).mean()

        return task_loss(model, batch, loss)

    def _losses(self, judged: Judgement, divergence: torch.Tensor, text_loss: torch.Tensor) -> torch.Tensor:
        """Return the loss of each example.

        Args:
            judged: the log-likelihoods of the answers.
            divergence: for kto, how far the model is from the base model.
            text_loss: for orpo, the loss per token of the prompts with the chosen answers.
        """
        import torch
        from torch.nn.functional import logsigmoid

        beta, options = self.options.beta, self.options
        if self.loss_name == "kto":  # arXiv 2402.01306, equation 7
            sign = torch.where(judged.wanted, 1.0, -1.0)
            weights = torch.where(judged.wanted, options.desirable_weight, options.undesirable_weight)
            gain = sign * beta * (judged.sums - judged.of_base - divergence)
            return (weights * (1 - gain.sigmoid())).mean(dim=0)
        ratio_chosen, ratio_rejected = judged.sums - judged.of_base
        if self.loss_name == "dpo":  # arXiv 2305.18290, equation 7
            return -logsigmoid(beta * (ratio_chosen - ratio_rejected))
        chosen, rejected = judged.means
        if self.loss_name == "ipo":  # arXiv 2310.12036, equation 17, per token as TRL does it
            tokens_chosen, tokens_rejected = judged.counts
            return (ratio_chosen / tokens_chosen - ratio_rejected / tokens_rejected - 1 / (2 * beta)) ** 2
        if self.loss_name == "simpo":  # arXiv 2405.14734, equation 6
            return -logsigmoid(beta * (chosen - rejected) - options.simpo_gamma)
        # orpo: arXiv 2403.07691, equations 4, 6 and 7
        return text_loss - beta * logsigmoid(_log_odds(chosen) - _log_odds(rejected))

    def _rewards(self, judged: Judgement) -> torch.Tensor:
        """Return the reward that the model gives to each answer, as TRL defines it for the loss."""
        return self.options.beta * (judged.sums - judged.of_base if self.asks_base else judged.means)

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`.

        The reward of an answer is TRL's: for dpo, ipo and kto, ``beta`` times the rise of its log-likelihood over the
        untouched base model; for orpo and simpo, ``beta`` times its log-likelihood per token. By the first definition
        the base model itself has rewards of 0, so its row has no metrics of rewards. It can be compared with others by
        ``likelihood_accuracy``, which needs no reference. An answer without a partner is right if its
        reward is above 0 and it is wanted, or below 0 and it is not; its margin is the reward with this sign.

        The loss is the mean over the examples. For orpo, that of an example has the mean over its own tokens; for kto,
        the divergence from the base model is that of the whole split.
        """
        import torch

        examples: list[Judged] = getattr(self, split)
        found = iter(self._measured(model, examples, settings))
        measured = [[next(found) for _ in example.sequences] for example in examples]
        number = len(examples[0].answers)

        def tensor(rows: Sequence[Sequence[Any]]) -> torch.Tensor:
            values = torch.tensor([row[:number] for row in rows]).T
            return values if values.dtype == torch.bool else values.double()

        sums = tensor([[-answer.loss for answer in row] for row in measured])
        judged = Judgement(
            sums=sums,
            counts=tensor([[answer.tokens for answer in row] for row in measured]),
            of_base=tensor([e.of_base for e in examples]) if self.asks_base else torch.zeros_like(sums),
            wanted=tensor([example.wanted for example in examples]),
        )
        rises = [
            -answer.loss - of_base
            for row, example in zip(measured, examples, strict=True)
            for answer, of_base in zip(row[number:], example.of_base[number:], strict=True)
        ]
        divergence = _divergence(torch.tensor(rises).double()) if rises else torch.zeros(())
        text_losses = torch.zeros(())
        if self.loss_name == "orpo" and "loss" in settings.metrics:
            text_losses = torch.tensor(self._text_losses(model, examples, settings)).double()
        scores = self._scores(judged)
        losses = self._losses(judged, divergence, text_losses).tolist()
        right = scores["likelihood_accuracy" if number == 2 else "reward_accuracy"]
        likelihoods = [Likelihood(loss, 1, (), int(is_right)) for loss, is_right in zip(losses, right, strict=True)]
        rows = [example.row for example in examples]
        return evaluation_of_scores(rows, likelihoods, scores, settings.metrics, split)

    def _scores(self, judged: Judgement) -> dict[str, list[Any]]:
        """Return the scores of each example by metric."""
        rewards = self._rewards(judged)
        if len(rewards) == 1:
            margins = rewards[0].where(judged.wanted[0], -rewards[0])
            return {"reward_accuracy": (margins > 0).tolist(), "reward_margin": margins.tolist()}
        return {
            "likelihood_accuracy": (judged.means[0] > judged.means[1]).tolist(),
            "reward_accuracy": (rewards[0] > rewards[1]).tolist(),
            "reward_margin": (rewards[0] - rewards[1]).tolist(),
        }

    def _measured(self, model: Any, examples: Sequence[Judged], settings: EvaluateSettings) -> list[Likelihood]:
        """Return the likelihood of all sequences of all examples, in their order.

        The untouched base model is measured here too, in the same batches: compared with itself, it differs by 0.
        """
        from adapterzoo.evaluation.likelihood import likelihoods

        sequences = [sequence for example in examples for sequence in example.sequences]
        return likelihoods(model, sequences, self.pad_id, settings.batch_size, losses_only=True)

    def _text_losses(self, model: Any, examples: Sequence[Judged], settings: EvaluateSettings) -> list[float]:
        """Return the loss per token of each prompt with its chosen answer."""
        from adapterzoo.evaluation.likelihood import likelihoods

        texts = [(ids, [False] + [True] * (len(ids) - 1)) for ids, _ in (example.answers[0] for example in examples)]
        measured = likelihoods(model, texts, self.pad_id, settings.batch_size, losses_only=True)
        return [text.loss / text.tokens for text in measured]


def _by_place(rows: Sequence[Sequence[Tokens]]) -> list[Tokens]:
    """Return the first sequences of all rows, then the second ones."""
    return [row[place] for place in range(len(rows[0])) for row in rows]


def _log_likelihoods(logits: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-likelihood of the learned tokens of each row of a padded batch, and the number of these tokens."""
    from torch.nn import functional

    from adapterzoo.tokens.batches import IGNORED
    from adapterzoo.tokens.shared_prefix import learned_logits

    selected, targets = learned_logits(logits, batch)
    of_tokens = -functional.cross_entropy(selected.float(), targets, reduction="none")
    learned = batch["labels"][:, 1:] != IGNORED
    sums = of_tokens.new_zeros(len(learned)).index_add(0, learned.nonzero()[:, 0], of_tokens)
    return sums, learned.sum(dim=1)


def _text_loss(logits: torch.Tensor, batch: dict[str, Any], rows: int) -> torch.Tensor:
    """Return the loss per token of the first rows of a padded batch, the prompts included."""
    from torch.nn import functional

    ids, is_text = batch["input_ids"][:rows, 1:], batch["attention_mask"][:rows, :-1].bool()
    logits = logits[:rows, -batch["input_ids"].shape[1] : -1]
    return functional.cross_entropy(logits[is_text].float(), ids[is_text])


def _divergence(rises: torch.Tensor) -> torch.Tensor:
    """Return how far a model is from its base, by how much likelier than the base it finds mismatched answers."""
    return rises.mean().clamp(min=0)


def _log_odds(log_likelihood: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of p / (1 - p)."""
    import torch

    value = log_likelihood.clamp(max=SURE)
    return value - torch.log(-torch.expm1(value))


class Preferences(Task[PreferenceOptions]):
    """The task of learning from preferences."""

    name = "preference"
    summary = "which of two answers is better, or which answers are wanted"
    options = PreferenceOptions
    model_class = "AutoModelForCausalLM"
    task_type = "CAUSAL_LM"
    formats = {"preference": PREFERENCE, "ranked": RANKED, "unpaired": UNPAIRED}  # noqa: RUF012  # it is not changed
    metrics = METRICS
    measured = METRICS
    compares_answers = False
    uses = ("system", "chat_template", "truncate")

    def default_metrics(self, rows: Rows, options: PreferenceOptions) -> Sequence[str]:
        """See :meth:`Task.default_metrics`."""
        return METRICS[1:] if _unpaired(rows) else METRICS

    def model_problems(self, config: Any) -> list[Problem]:
        """See :meth:`Task.model_problems`."""
        return super().model_problems(config) or ([self.wrong_model(config)] if config.is_encoder_decoder else [])

    def problems(self, rows: Rows, options: PreferenceOptions, metrics: Sequence[str]) -> list[Problem]:
        """See :meth:`Task.problems`."""
        unpaired, loss, problems = _unpaired(rows), loss_of(rows, options), list[Problem]()
        if unpaired and loss != "kto":
            what = f"{loss} compares a chosen answer with a rejected one, and these rows have single answers."
            problems.append(Problem("task.loss", what, "Set it to kto, or give rows of prompt, chosen and rejected."))
        for option, only in OWN_OPTIONS.items():
            if only != loss and getattr(options, option) != PreferenceOptions.model_fields[option].default:
                what = f"has no effect: only {only} uses it, and the loss is {loss}."
                problems.append(Problem(f"task.{option}", what, "Leave it out, or set task.loss."))
        if unpaired and "likelihood_accuracy" in metrics:
            what = "'likelihood_accuracy' compares two answers, and these rows have one."
            problems.append(Problem("evaluate.metrics", what, f"Choose from: {', '.join(METRICS[1:])}."))
        if unpaired and len(labels := {_wanted(row) for row in rows.train}) < 2:
            what = f"the label of all training rows is {str(labels.pop()).lower()}: there is nothing to tell apart."
            problems.append(Problem("data", what, "Give rows with both labels."))
        alone = [row for row in (*rows.train, *rows.validation, *rows.test) if len(row.turns) == 1]
        if alone:
            what = f"it has no prompt, as {len(alone)} rows."
            hint = "Give a column 'prompt', or conversations of role and content."
            problems.append(Problem(alone[0].place, what, hint))
        return problems

    def encode(self, given: EncodeInput[PreferenceOptions]) -> Judgements:
        """See :meth:`Task.encode`."""
        from adapterzoo.tokens import cache
        from adapterzoo.tokens.encode import Encoder

        tokenizer, rows = given.tokenizer, given.rows
        encoder, loss = Encoder(tokenizer, given.data, given.say), loss_of(rows, given.options)
        if _unpaired(rows):
            encoded = cache.encode_splits(encoder, rows)
            splits = {
                split: [Judged(e.row, (e.tokens,), (_wanted(e.row),)) for e in getattr(encoded, split)]
                for split in SPLIT_NAMES
            }
        else:
            splits = {
                split: [Judged(a.row, (a.tokens, b.tokens), (True, False)) for a, b in pairs]
                for split, pairs in encode_pairs(encoder, rows).items()
            }
        if loss == "kto":
            splits = {
                split: list(_with_mismatched(examples, given.data.max_length)) if examples else []
                for split, examples in splits.items()
            }
        counts = " and ".join(f"{number} tokens" for number in _mean_lengths(splits["train"]))
        pad = tokenizer.convert_ids_to_tokens(encoder.pad_id)
        return Judgements(
            tokenizer=encoder.tokenizer,
            **splits,
            pad_id=encoder.pad_id,
            fingerprint=rows.fingerprint,
            facts=(f"loss {loss}; answers have {counts} on average", f"padding {pad}, never in the loss"),
            loss_name=loss,
            options=given.options,
        )


def loss_of(rows: Rows, options: PreferenceOptions) -> Loss:
    """Return the loss that is minimised."""
    if options.loss != "auto":
        return options.loss
    return "kto" if _unpaired(rows) else "dpo"


def _unpaired(rows: Rows) -> bool:
    """Tell whether a row has one answer, with whether it is wanted."""
    return any(name == WANTED for name, _ in rows.train[0].more)


def _wanted(row: DataRow) -> bool:
    return bool(dict(row.more)[WANTED])


def _mean_lengths(examples: Sequence[Judged]) -> list[int]:
    """Return the mean number of tokens of the chosen and of the rejected answers, or of all answers."""
    places = range(len(examples[0].answers))
    return [round(sum(sum(e.answers[place][1]) for e in examples) / len(examples)) for place in places]


def _with_mismatched(examples: Sequence[Judged], max_length: int) -> Iterator[Judged]:
    """Yield the examples of a split with, for each answer, their prompt and the last answer before to another prompt.

    TRL rotates the answers of each batch. Here they are rotated in the whole split, so that the untouched base model
    can be asked about them before the order of the rows is known. If there is no other prompt, as in TRL, the answer is
    one to the same prompt.
    """
    parts = [_parts(answer) for answer in _by_place([example.answers for example in examples])]
    mismatched: list[Tokens] = []
    partner = 0
    for index, (prompt, _) in enumerate(parts):
        if index == 0:
            others = [at for at, (other, _) in enumerate(parts) if other != prompt]
            partner = others[-1] if others else len(parts) - 1
        elif parts[index - 1][0] != prompt:
            partner = index - 1
        answer = parts[partner][1]
        ids, learned = [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)
        mismatched.append((ids[:max_length], learned[:max_length]))
    for index, example in enumerate(examples):
        yield replace(example, mismatched=tuple(mismatched[index :: len(examples)]))


def _parts(sequence: Tokens) -> tuple[list[int], list[int]]:
    """Return the ids before an answer, and those of the answer."""
    ids, learned = sequence
    start = learned.index(True)
    return ids[:start], ids[start:]


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [Preferences()]
