"""Everything about a run that can be known and checked without the model's weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from adapterzoo.budget import solve
from adapterzoo.data.row import PARTS
from adapterzoo.data.split import fingerprint
from adapterzoo.errors import PluginError, Problem, UserError
from adapterzoo.examples import encode_data, read_data, shown_prompts
from adapterzoo.layers import linear_layers
from adapterzoo.method import Context, Method, find_problems, put_on
from adapterzoo.plan import Cell, plan
from adapterzoo.recipe import Recipe
from adapterzoo.registry import Registry, registry

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.base import Base
    from adapterzoo.forgetting import General
    from adapterzoo.tokens.encode import Encoded

NOISY = ("bitsandbytes", "peft", "accelerate", "datasets", "huggingface_hub")


@dataclass(frozen=True)
class Prepared:
    """Made once and shared by all cells."""

    recipe: Recipe
    cells: list[Cell]
    location: str
    """what transformers is given for the model"""
    encoded: Encoded
    shots: list[list[int]]
    """the test prompts with examples in front, where the recipe wants them"""
    steps: int
    trainable: dict[str, int]
    """label -> parameters that its method trains; a label is missing where only real weights can tell"""
    base_parameters: int
    linear_parameters: int
    """those of the base that quantization reaches"""
    weights: str | None
    """which weights the model's name stands for today"""
    vocabulary: int
    """how many embeddings the tokenizer needs"""
    fingerprints: dict[str, str | None]
    """hashes of the data, of each of its parts, and of the base's weights"""
    general: General | None
    """the text on which forgetting is measured, where the recipe wants that"""

    def context(self, cell: Cell) -> Context:
        """What a cell's method may know."""
        train = self.recipe.train
        return Context(
            base=cell.base,
            total_steps=self.steps,
            gradient_accumulation=train.gradient_accumulation,
            seed=cell.seed,
            batches=partial(self.encoded.shuffled_batches, train.batch_size, cell.seed),
        )


def prepare(
    recipe: Recipe,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    say: Callable[[str], None] = lambda message: None,
) -> Prepared:
    """Plan the cells, read and tokenize the data, and try every method on the architecture.

    Args:
        say: is told what was dropped, cut or chosen on the way.

    Raises:
        UserError: all that is wrong with the methods, the data or the model.
    """
    zoo = registry()
    recipe, splits = read_data(recipe, say)
    cells = plan(recipe, methods, seeds, zoo)
    with quiet_libraries():
        from adapterzoo import loading
        from adapterzoo.training_arguments import total_steps

        location = loading.locate(recipe.model.name, say)
        config = loading.load_config(recipe.model, location)
        encoder, encoded = encode_data(recipe, location, splits, say)
        skeleton = loading.skeleton(recipe.model, config, encoder.vocabulary)
        weights = loading.fingerprint(location, config)
        parts = {name: fingerprint([getattr(splits, name)]) for name in PARTS}
        prepared = Prepared(
            recipe=recipe,
            cells=cells,
            location=location,
            encoded=encoded,
            shots=shown_prompts(encoder, encoded, recipe.evaluate.shots),
            steps=total_steps(recipe.train, len(encoded.training_rows)),
            trainable={},
            base_parameters=sum(p.numel() for p in skeleton.parameters()),
            linear_parameters=sum(p.numel() for layer in linear_layers(skeleton).values() for p in layer.parameters()),
            weights=weights,
            vocabulary=encoder.vocabulary,
            fingerprints={"data": splits.fingerprint, **parts, "weights": weights},
            general=_general(recipe, encoded, config),
        )
        _check_context_length(prepared, config)
        return _try_out(prepared, skeleton, zoo)


def _general(recipe: Recipe, encoded: Encoded, config: Any) -> General | None:
    """The general text, where the recipe wants it read.

    Raises:
        UserError: it cannot be.
    """
    from adapterzoo.forgetting import General, general_rows

    settings = recipe.evaluate
    if settings.general_text is None:
        return None
    rows = general_rows(settings.general_text, encoded.tokenizer, _limit(config))
    return General(rows, encoded.pad_id, settings.batch_size)


def _limit(config: Any) -> int | None:
    """How many tokens the model reads."""
    return getattr(config, "max_position_embeddings", None)


def _check_context_length(prepared: Prepared, config: Any) -> None:
    """Raises UserError where a row, or the test prompts with examples in front, are longer than the model reads."""
    limit = _limit(config)
    if limit is None:
        return
    encoded = prepared.encoded
    rows = [*encoded.train, *encoded.validation, *encoded.test]
    longest = max(len(example.prompt) + len(example.completion) for example in rows)
    answers = [len(example.completion) for example in encoded.test]
    shown = max((len(p) + n for p, n in zip(prepared.shots, answers, strict=False)), default=0)
    problems = []
    if longest > limit:
        what = f"the longest row has {longest} tokens, and the model reads {limit}."
        problems.append(Problem("data.max_length", what, f"Set it to {limit} or less."))
    if shown > limit:
        what = f"with the examples in front a test prompt has {shown} tokens, and the model reads {limit}."
        problems.append(Problem("evaluate.shots", what, "Show fewer, or 0."))
    if problems:
        raise UserError(*problems)


def _try_out(prepared: Prepared, skeleton: nn.Module, zoo: Registry) -> Prepared:
    """Ask the trainer and each method what cannot work, size it to the budget, and count what it would train.

    Raises:
        UserError: with the problems of all of them.
    """
    from adapterzoo.base import Base
    from adapterzoo.training_arguments import check_settings

    problems = check_settings(prepared.recipe.train, prepared.steps)
    if prepared.recipe.train.eval_steps and not prepared.encoded.validation:
        problems.append(Problem("train.eval_steps", "there are no validation rows.", "Give split.validation a share."))
    if prepared.recipe.tune and not prepared.encoded.validation:
        problems.append(Problem("tune", "there are no validation rows to choose by.", "Give split.validation a share."))
    wanted = prepared.recipe.budget.trainable_params if prepared.recipe.budget else 0
    if wanted > prepared.base_parameters:
        what = f"{wanted:.3g} is more than the {prepared.base_parameters:,} parameters of the model."
        problems.append(Problem("budget.trainable_params", what, "Give a part of them."))
        raise UserError(*problems)
    untouched = Base(skeleton, "none", lambda: skeleton)
    sized: dict[str, dict[str, Any]] = {}
    for cell in {cell.label: cell for cell in prepared.cells if cell.method}.values():
        # Without data: what a method would learn from it takes weights.
        method, context = zoo[cell.method or ""], replace(prepared.context(cell), batches=tuple)
        if prepared.encoded.packs and method.group == "prompt":
            what = "puts something in front of every row, and packed rows have only one front."
            problems.append(
                Problem(f"{cell.label}: data.packing", f"{method.name} {what}", "Leave it out, or do not pack.")
            )
        options = method.options(**cell.options)
        try:
            if cell.budget is not None:
                options = solve(method, options, cell.budget, partial(_trained, method, untouched, context))
                sized[cell.label] = options.model_dump(mode="json")
            found, count = try_out(method, untouched, options, context)
        except PluginError as error:
            found, count = [Problem(zoo.package(method.name), f"its plugin is at fault: {error}.")], None
        problems += [Problem(f"{cell.label}: {problem.where}", problem.what, problem.cure) for problem in found]
        if count is not None:
            prepared.trainable[cell.label] = count
    if problems:
        raise UserError(*problems)
    cells = [replace(cell, options=sized.get(cell.label, cell.options)) for cell in prepared.cells]
    return replace(prepared, cells=cells)


def _trained(method: Method[Any], skeleton: Base, context: Context, options: Any) -> int | None:
    return try_out(method, skeleton, options, context)[1]


def try_out(method: Method[Any], skeleton: Base, options: Any, context: Context) -> tuple[list[Problem], int | None]:
    """What cannot work with a method on an architecture, and else how many parameters it would train.

    Args:
        skeleton: the model without weights.

    Returns:
        The problems, and the number; None where there are problems, or only real weights can tell.

    Raises:
        PluginError: the method does not do what the contract says.
    """
    import torch

    if found := find_problems(method, skeleton.model, options, context):
        return found, None
    try:
        with skeleton.lend() as model, torch.device("meta"):
            wrapped = put_on(method, model, options, context)
            return [], sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    except ValueError as error:  # what PEFT, and anyone, says of sizes and layers that do not fit
        return [Problem("options", " ".join(str(error).split())[:300])], None
    except (Exception, SystemExit):  # a method that starts from real weights, or one that is broken: its cell will tell
        return [], None


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps what transformers, PEFT and bitsandbytes print out of the progress display."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    levels = {name: logging.getLogger(name).level for name in NOISY}
    transformers_logging.set_verbosity_error()
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
