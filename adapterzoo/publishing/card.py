"""Write the card of a published adapter or merged model: what it is, how to load it, and what it was compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapterzoo.adapters.change import ScoreChange
from adapterzoo.adapters.finding import Adapter
from adapterzoo.metrics.registry import style
from adapterzoo.publishing.markup import fenced, folded, table
from adapterzoo.publishing.origin import BaseModel, Data
from adapterzoo.terminal import count, duration, escape_markdown

TAG = "adapterzoo"
"""tag of everything that adapterzoo publishes, and key of its marker in a card"""
TASK = "text-generation"


@dataclass(frozen=True)
class CardParts:
    """The contents of a card."""

    adapter: Adapter
    repository: str
    base: BaseModel
    data: Data
    code: str
    """code that loads and asks it"""
    comparison: str
    """markdown of the comparison"""
    recipe: str
    """YAML without local paths"""
    licence: str | None
    merged: bool
    changes: Sequence[ScoreChange] = ()
    """how the scores changed by merging"""

    @property
    def scores(self) -> dict[str, float]:
        """Return metric -> the score of what is published; empty if a merged model was not measured."""
        if self.merged:
            return {change.metric: change.after for change in self.changes}
        return dict(self.adapter.result.metrics)


def marker(adapter: Adapter, *, merged: bool) -> dict[str, Any]:
    """Return what the metadata of a card say about the repository, so that the next push knows it again."""
    kind = "merged" if merged else "adapter"
    return {"kind": kind, "name": adapter.recipe.name, "label": adapter.result.label}


def model_card(parts: CardParts) -> str:
    """Return the content of README.md."""
    sections = [_title(parts), _use(parts), _scores(parts), _data(parts.data), _training(parts), _licence(parts)]
    return with_metadata(metadata(parts), "\n\n".join(sections))


def with_metadata(data: Any, body: str) -> str:
    """Return a card of metadata and text."""
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n"


def metadata(parts: CardParts) -> Any:
    """Return the metadata of the card, as the hub's library checks them."""
    from huggingface_hub import EvalResult, ModelCardData

    data, result = parts.data, parts.adapter.result
    dataset = data.hub_ids[0] if data.hub_ids else data.name
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset,
            dataset_name=data.name,
            dataset_split="test",
            metric_type=name,
            metric_name=style(name).title,
            metric_value=score,
        )
        for name, score in parts.scores.items()
    ]
    more: Any = {TAG: marker(parts.adapter, merged=parts.merged)}
    return ModelCardData(
        base_model=parts.base.id,
        base_model_relation=None if parts.base.id is None else "finetune" if parts.merged else "adapter",
        datasets=data.hub_ids or None,
        eval_results=results or None,
        library_name="transformers" if parts.merged else "peft",
        license=parts.licence,
        model_name=parts.repository.partition("/")[2],
        pipeline_tag=TASK,
        tags=[TAG, str(result.method)],
        **more,
    )


def _title(parts: CardParts) -> str:
    result, base = parts.adapter.result, parts.base
    title = f"# {escape_markdown(parts.adapter.recipe.name)}: {escape_markdown(result.label)}"
    name = f"[{escape_markdown(base.id)}](https://huggingface.co/{base.id})" if base.id else escape_markdown(base.name)
    method = escape_markdown(result.method)
    what = f"An adapter of the method {method} for {name}"
    if parts.merged:
        what = f"{name} with an adapter of the method {method} merged into its weights: a model that needs no adapter"
    on = "" if result.quantization == "none" else f" It was trained on the base model in {result.quantization}."
    if parts.merged and on:
        on += " The weights have the values that they had there."
    more = " ".join(filter(None, (on.strip(), escape_markdown(base.note))))
    intro = f"{what}, trained and measured by adapterzoo, which compared it with other methods on the same rows."
    return "\n\n".join(filter(None, (title, intro, more)))


def _use(parts: CardParts) -> str:
    needs = "transformers" if parts.merged else "peft and transformers"
    needs += " and bitsandbytes" if "BitsAndBytesConfig" in parts.code else ""
    intro = f"Needs {needs}. A private repository needs a login (`hf auth login`)."
    if (dtype := parts.adapter.recipe.model.dtype) != "float32":
        intro += f" In {dtype}, rounding can decide between two tokens that are about equally likely."
    return f"## Use\n\n{intro}\n\n{fenced(parts.code, 'python')}"


def _scores(parts: CardParts) -> str:
    result = parts.adapter.result
    rows = [(style(name).title, f"{score:.4g}") for name, score in parts.scores.items()]
    own = table(("metric", "score"), rows)
    about = f"Scores of what is in this repository (label {escape_markdown(result.label)}, seed {result.seed}):"
    if parts.merged and rows:
        about = "Scores of the merged model, measured on the same test rows as the adapter:"
    if not rows:
        about, own = "The merged model was not measured; the scores of its adapter are in the table below.", ""
    compared = "The comparison that it comes from, a mean over all seeds of each row:"
    return "\n\n".join(filter(None, ("## Scores", about, own, compared, parts.comparison.strip())))


def _data(data: Data) -> str:
    files = table(("data", "SHA-256"), [(file.name, file.sha256 or "not known") for file in data.files])
    splits = table(
        ("split", "rows", "hash of its rows"),
        [(name, data.rows.get(name, "not known"), digest) for name, digest in data.fingerprints.items()],
    )
    note = f"The files were not hashed: {escape_markdown(data.note)}" if data.note else ""
    return "\n\n".join(filter(None, ("## Data", files, note, splits if data.fingerprints else "")))


def _training(parts: CardParts) -> str:
    result = parts.adapter.result
    facts: Mapping[str, object] = {
        "method": f"{result.method} ({result.plugin or 'plugin not known'})",
        "trained parameters": f"{count(result.trainable_params)} of {count(result.total_params)}",
        "quantization of the base model": result.quantization,
        "learning rate": result.learning_rate,
        "steps": result.steps,
        "seed": result.seed,
        "time": duration(result.train_seconds) if result.train_seconds is not None else None,
        **versions(result.environment),
    }
    rows = [(name, value) for name, value in facts.items() if value is not None]
    recipe = folded("The recipe", fenced(parts.recipe, "yaml"))
    return f"## Training\n\n{table(('', ''), rows)}\n\n{recipe}"


def versions(environment: Mapping[str, Any]) -> dict[str, object]:
    """Return package -> version, and the hardware, without the name of the machine."""
    packages = {str(name): version for name, version in environment.get("packages", {}).items() if version}
    machine = {name: environment.get(name) for name in ("python", "processor", "device")}
    return {**packages, **{name: value for name, value in machine.items() if value}}


def _licence(parts: CardParts) -> str:
    what = f"Licence: {escape_markdown(parts.licence)}." if parts.licence else "Its owner gave no licence."
    return f"## Licence\n\n{what} The base model and the data have licences of their own."
