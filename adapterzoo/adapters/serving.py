"""Find out how an adapter can be served, by trying, and what an answer costs then."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from adapterzoo.adapters.asking import Ready
from adapterzoo.adapters.finding import Adapter, Say, check_files, find_adapters, first_of_each_label
from adapterzoo.adapters.loading import apply_adapter, load_base, recorded_prompt, require_causal, saved_encoder
from adapterzoo.adapters.merging import Merger, load_merged
from adapterzoo.adapters.servable import FORM, Servable, make_servable
from adapterzoo.errors import UserError, failure_reason
from adapterzoo.machine.memory import PeakMemory
from adapterzoo.machine.processes import in_processes
from adapterzoo.methods.registry import registry
from adapterzoo.results.adapter_folder import weight_bytes
from adapterzoo.results.intact import read_lines
from adapterzoo.results.serving import Cost, Serving, read_serving, write_serving
from adapterzoo.results.store import PREDICTIONS

PROMPTS = 8
"""number of test examples that are answered one by one"""
LONGEST = 64
"""largest number of tokens of an answer, where the recipe leaves it open"""
MERGED = "merged model"
HARDWARE = ("processor", "cores", "threads", "device", "gpu")


class Answering(NamedTuple):
    """The cost of an adapter's answers, and whether its base model can hold another adapter."""

    cost: Cost
    shares_base: bool
    """whether a second adapter on the same base model leaves the answers of the first one as they are"""


def try_servings(folder: Path, say: Say, trust_remote_code: bool = False) -> None:
    """Find out how the first adapter of each label can be served, and keep it beside its result, if it is not known.

    Args:
        folder: output folder of a run.
        say: is called with a message before each adapter, and with the reason if one cannot be tried.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.

    Raises:
        UserError: the folder holds no adapters.
    """
    from adapterzoo.machine.environment import environment

    here = {name: environment()[name] for name in HARDWARE}
    for adapter in first_of_each_label(find_adapters(folder, trust_remote_code=trust_remote_code, say=say)):
        cell = adapter.path.parent
        known = read_serving(cell, adapter.result)
        if known is not None and known.hardware == here:
            continue
        say(f"{adapter.result.label}: trying how it can be served")
        try:
            write_serving(cell, adapter.result, try_serving(adapter, here))
        except UserError as error:
            say(f"{adapter.result.label}: {error.problems[0]}")


def try_serving(adapter: Adapter, hardware: dict[str, Any]) -> Serving:
    """Find out how an adapter can be served, and what its answers cost; each form is tried in a process of its own.

    Args:
        adapter: the adapter.
        hardware: this machine, which is kept with the costs.

    Raises:
        UserError: the adapter cannot be loaded.
    """
    require_causal(adapter)
    check_files(adapter, _silent)
    with tempfile.TemporaryDirectory(prefix="adapterzoo-") as folder:
        converted, model = Path(folder, "converted"), Path(folder, "model")
        tries: list[Callable[[], Any]] = [
            partial(_with_adapter, adapter),
            partial(_servable, adapter, converted),
            partial(_merge, adapter, model),
        ]
        answering, servable, not_merged = in_processes(tries, 1)
        if isinstance(answering, Exception):
            raise answering if isinstance(answering, UserError) else _failed(adapter, answering)
        found: dict[str, Any] = {"adapter": answering.cost, "hardware": hardware}
        why_not = {}
        if isinstance(not_merged, Exception):
            why_not[MERGED] = _reason(not_merged)
        else:
            (found["merged"],) = in_processes([partial(_merged, adapter, model)], 1)
            if isinstance(found["merged"], Exception):
                raise _failed(adapter, found["merged"])
        if isinstance(servable, Servable):
            size = weight_bytes(converted if converted.exists() else adapter.path)
            form = Serving(servable.form, size, servable.rank, _loss(servable, adapter), shares_base=True, **found)
        else:
            why_not[FORM] = _reason(servable)
            form = _other_form(adapter, answering, weight_bytes(model) if model.exists() else 0, found)
    return Serving(**{**vars(form), "why_not": why_not})


def _other_form(adapter: Adapter, answering: Answering, merged_bytes: int, found: dict[str, Any]) -> Serving:
    """Return how an adapter can be served that servers of many adapters cannot load."""
    if found.get("merged") is not None:
        return Serving(MERGED, merged_bytes, **found)
    in_peft = registry()[adapter.result.method or ""].loads_in_peft
    form = "PEFT only" if in_peft else "adapterzoo only"
    return Serving(form, weight_bytes(adapter.path), shares_base=answering.shares_base, **found)


def _with_adapter(adapter: Adapter) -> Answering:
    base, encoder = load_base(adapter, adapter.result.quantization, _silent)
    with base.borrow() as model:
        with PeakMemory() as peak:
            ready = Ready.of(apply_adapter(adapter, model, adapter.result.quantization), encoder, adapter)
            seconds = _seconds(ready)
        return Answering(Cost(seconds, peak.bytes), _shares_base(ready))


def _servable(adapter: Adapter, to: Path) -> Servable:
    return make_servable(adapter, to, _silent)


def _merge(adapter: Adapter, to: Path) -> None:
    Merger(_silent, measure=False).merge(adapter, to)


def _merged(adapter: Adapter, folder: Path) -> Cost:
    with PeakMemory() as peak:
        seconds = _seconds(Ready.of(load_merged(adapter, folder), saved_encoder(adapter), adapter))
    return Cost(seconds, peak.bytes)


def _seconds(ready: Ready) -> float:
    """Return the seconds of one answer, the mean over some test examples that are answered one by one."""
    from adapterzoo.evaluation.generation import generate

    lines = read_lines(ready.adapter.path.parent / PREDICTIONS)[:PROMPTS]
    ids = [recorded_prompt(ready.encoder, ready.adapter, str(line.get("prompt"))) for line in lines]
    wanted = ready.adapter.recipe.evaluate.max_new_tokens
    longest = LONGEST if wanted == "auto" else wanted
    generate(ready.model, ready.encoded, ids[:1], 1, longest)  # the first answer also sets things up
    begun = time.perf_counter()
    generate(ready.model, ready.encoded, ids, 1, longest)
    return (time.perf_counter() - begun) / max(len(ids), 1)


def _shares_base(ready: Ready) -> bool:
    """Tell whether PEFT can hold a second adapter on the same base model, and switch between the two."""
    import torch
    from peft import PeftModel

    model: Any = ready.model
    if not isinstance(model, PeftModel):
        return False
    ids = torch.tensor([ready.prompt("?")], device=next(model.parameters()).device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        with torch.no_grad():
            first = model(**inputs).logits
            model.load_adapter(str(ready.adapter.path), "second")
            model.set_adapter("second")
            second = model.eval()(**inputs).logits
            model.set_adapter("default")
            return bool(torch.equal(first, second) and torch.equal(first, model.eval()(**inputs).logits))
    except Exception:  # a method may raise anything where PEFT allows only one adapter
        return False


def _loss(servable: Servable, adapter: Adapter) -> dict[str, Any]:
    """Return what the conversion costs by the recipe's first metric; empty if nothing is lost."""
    if not servable.changes:
        return {}
    first = servable.changes[0]
    return {"metric": first.metric, "difference": first.difference.value, "interval": first.difference.interval}


def _reason(error: Exception) -> str:
    return error.problems[0].what if isinstance(error, UserError) else failure_reason(error)


def _failed(adapter: Adapter, error: Exception) -> UserError:
    return UserError.at(f"--method {adapter.result.label}", f"could not be tried: {failure_reason(error)}.")


def _silent(message: str) -> None:
    """Take a message of a step, which a process of its own would print where nobody reads it."""
