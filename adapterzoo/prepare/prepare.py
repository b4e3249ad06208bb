"""Prepare a run: plan it, and check all that can be checked without the model's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.data.split import Splits, fingerprint
from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.errors import Problem, UserError
from adapterzoo.machine.memory import spare_imported_modules
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.methods.registry import registry
from adapterzoo.methods.targets import linear_layers
from adapterzoo.prepare.checkpoint import fit_to_checkpoint
from adapterzoo.prepare.devices import devices_problems
from adapterzoo.prepare.dry_run import dry_run
from adapterzoo.prepare.examples import encode_data, read_data
from adapterzoo.prepare.placing import placed
from adapterzoo.prepare.plan import Cell, plan
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.prepare.reach import reach_of
from adapterzoo.recipe.schema import Recipe
from adapterzoo.tasks.batches import sealed
from adapterzoo.tasks.examples import Examples
from adapterzoo.tasks.registry import tasks

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.evaluation.forgetting import General

ENCODER_DECODER = "SEQ_2_SEQ_LM"
"""PEFT's name for tasks whose answers a decoder writes"""


def prepare(
    recipe: Recipe,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    say: Callable[[str], None] = lambda message: None,
    before_torch: Callable[[], None] = lambda: None,
) -> Prepared:
    """Plan the cells, read and tokenize the data, and try every method on the architecture.

    Args:
        recipe: the recipe.
        methods: labels or names of methods to run; if empty, all methods of the recipe.
        seeds: seeds to run; if empty, the recipe's.
        say: is called with messages about what was dropped, cut or chosen.
        before_torch: is called after the data was read and before torch computes anything.

    Raises:
        UserError: the methods, the data or the model have problems.
    """
    zoo = registry()
    recipe, splits = read_data(recipe, say)
    cells = plan(recipe, methods, seeds, zoo)
    before_torch()
    with quiet_libraries():
        prepared, skeleton = encode_run(recipe, splits, cells, say)
        # Read the weights last, because those of a large model take minutes.
        prepared = dry_run(prepared, skeleton, zoo)
        prepared = replace(prepared, reach=reach_of(skeleton, prepared.method_cells))
        return with_weights(prepared, skeleton)


def encode_run(
    recipe: Recipe, splits: Splits, cells: list[Cell], say: Callable[[str], None], steps: int | None = None
) -> tuple[Prepared, nn.Module]:
    """Encode the rows of a run, and check that its model and its rows fit; return the run and the model's skeleton.

    Args:
        recipe: the recipe, as :func:`read_data` returned it.
        splits: the rows.
        cells: the cells of the run.
        say: is called with messages about what was cut or left out.
        steps: number of optimizer steps of each training; None to compute it from the recipe.

    Raises:
        UserError: the model or the rows have problems.
    """
    from adapterzoo.model import loading
    from adapterzoo.model.positions import readable
    from adapterzoo.model.skeleton import skeleton as make_skeleton

    spare_imported_modules()
    from adapterzoo.training.steps import total_steps

    recipe, cells, location, config = _with_model(recipe, cells, say)
    encoded = encode_data(recipe, location, config, splits, say)
    rows = len(encoded.training_rows)
    if problems := devices_problems(recipe, encoded, config, cells, registry()):
        raise UserError(*problems)
    loading.check_weights(recipe.model, location, config, encoded.form)
    skeleton = make_skeleton(recipe.model, config, encoded.form)
    limit = readable(skeleton, config)
    kept = placed(recipe, location, encoded.form, skeleton, cells, registry())
    parts = {name: fingerprint([getattr(splits, name)]) for name in SPLIT_NAMES}
    prepared = Prepared(
        recipe=recipe,
        cells=cells,
        location=location,
        encoded=encoded,
        sealed_rows=sealed(encoded),
        steps=total_steps(recipe.train, rows, encoded.smallest_batch) if steps is None else steps,
        trainable={},
        unknown_sizes={},
        base_parameters=sum(p.numel() for p in skeleton.parameters()),
        linear_parameters=sum(p.numel() for layer in linear_layers(skeleton).values() for p in layer.parameters()),
        reach=[],
        weights=None,
        fingerprints={"data": splits.fingerprint, **parts},
        general=_general(recipe, encoded, limit),
        longest_read=_longest_read(recipe, encoded, limit),
        kept=kept,
    )
    return prepared, skeleton


def _with_model(recipe: Recipe, cells: list[Cell], say: Callable[[str], None]) -> tuple[Recipe, list[Cell], str, Any]:
    """Find the model; return the recipe and the cells that fit it, the model's location, and its configuration.

    Raises:
        UserError: there is no such model, or the task cannot use it.
    """
    from adapterzoo.model import files as model_files
    from adapterzoo.model.bundled import BUNDLED
    from adapterzoo.model.config import load_config
    from adapterzoo.model.dtype import with_fast_dtype

    location = model_files.locate(recipe.model.name, say)
    config = load_config(recipe.model, location)
    recipe = recipe.model_copy(update={"model": with_fast_dtype(recipe.model, say)})
    recipe, cells = fit_to_checkpoint(recipe, cells, config, registry(), say)
    if Path(location).is_dir() and recipe.model.name not in BUNDLED:
        # However its folder is named, it is the same model: the resolved recipe has the absolute path.
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": location})})
    if problems := tasks()[recipe.task.name].model_problems(config):
        raise UserError(*problems)
    return recipe, cells, location, config


def with_weights(prepared: Prepared, skeleton: Any) -> Prepared:
    """Return the run with the hash of its base model's weights, which are read for it.

    Args:
        prepared: the run.
        skeleton: the model without weights, whose configuration holds the commit of a hub id.
    """
    from adapterzoo.model import files as model_files

    weights = model_files.fingerprint(prepared.location, skeleton.config)
    return replace(prepared, weights=weights, fingerprints={**prepared.fingerprints, "weights": weights})


def _general(recipe: Recipe, encoded: Examples, limit: int | None) -> General | None:
    """Read and tokenize the general text; return None if the recipe has none.

    Raises:
        UserError: the text cannot be read.
    """
    from adapterzoo.evaluation.forgetting import General, general_rows

    settings = recipe.evaluate
    if settings.general_text is None:
        return None
    rows = general_rows(settings.general_text, encoded.tokenizer, limit)
    return General(rows, encoded.pad_id, settings.batch_size)


def _longest_read(recipe: Recipe, encoded: Examples, limit: int | None) -> int:
    """Return the number of tokens of the longest row, test prompt with examples in front, or prompt with its answer.

    Raises:
        UserError: it is longer than the model can read.
    """
    longest, shown = encoded.longest_row, encoded.longest_shown
    joinable, new = encoded.joinable(recipe.evaluate), recipe.evaluate.max_new_tokens
    answered, what_is_read = 0, "a prompt with its answer"
    if joinable and new != "auto":
        answered = joinable.longest
    elif tasks()[recipe.task.name].task_type == ENCODER_DECODER and new != "auto":
        answered, what_is_read = new, "an answer"  # the decoder reads it alone
    longest_read = max(longest, shown, answered)
    if limit is None or longest_read <= limit:
        return longest_read
    problems = []
    if longest > limit:
        what = f"the longest row has {longest} tokens, and the model can read {limit}."
        problems.append(Problem("data.max_length", what, f"Set it to {limit} or less."))
    if longest <= limit < answered:
        what = f"{what_is_read} may have {answered} tokens, and the model can read {limit}."
        hint = f"Lower it by {answered - limit}."
        problems.append(Problem("evaluate.max_new_tokens", what, hint))
    if shown > limit:
        what = f"with the examples in front a test prompt has {shown} tokens, and the model can read {limit}."
        problems.append(Problem("evaluate.shots", what, "Show fewer examples, or 0."))
    raise UserError(*problems)
