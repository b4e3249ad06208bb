"""Make the layers of a model without weights, in the form that a task needs."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

from adapterzoo.model.head import mark_head
from adapterzoo.model.loading_errors import loading_error
from adapterzoo.model.padding import add_embeddings
from adapterzoo.tasks.examples import CAUSAL_FORM, ModelForm

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.recipe.schema import ModelSection


def skeleton(model: ModelSection, config: Any, form: ModelForm = CAUSAL_FORM) -> nn.Module:
    """Return the model without its weights: it has all layers, with every parameter on the meta device.

    Raises:
        UserError: transformers does not know the architecture, or the model's own code fails.
    """
    import torch

    auto = model_class(form)
    try:
        with torch.device("meta"):
            empty: nn.Module = auto.from_config(
                configured(config, form),
                trust_remote_code=model.trust_remote_code,
                **class_arguments(config, form),
            )
    except Exception as error:  # a model's own code may raise any error
        raise loading_error(model, error) from None
    add_embeddings(empty, form.vocabulary)
    mark_head(empty, form)
    return empty


def model_class(form: ModelForm) -> Any:
    """Return the class of transformers that loads a model in this form."""
    import transformers

    return getattr(transformers, form.model_class)


def renamed_base(config: Any, form: ModelForm) -> dict[str, str]:
    """Return how to rename weights if the model calls its base model otherwise than the causal language model does.

    transformers does that only for some architectures; for example, not for Llama that answers from a context.
    """
    classes = [model_class(form)._model_mapping.get(type(config), None) for form in (CAUSAL_FORM, form)]
    if None in classes:
        return {}
    old, new = (getattr(found[0] if isinstance(found, tuple) else found, "base_model_prefix", "") for found in classes)
    return {rf"^{old}\.": f"{new}."} if new and old and new != old else {}


def configured(config: Any, form: ModelForm) -> Any:
    """Return a copy of a model's configuration with the settings of the form."""
    config = copy.deepcopy(config)
    for name, value in form.config.items():
        setattr(config, name, value)
    return config


def class_arguments(config: Any, form: ModelForm) -> dict[str, Any]:
    """Return the arguments of the model's class that the form needs: how to leave its pooler out, if it has one."""
    if form.pooler:
        return {}
    found = model_class(form)._model_mapping.get(type(config), None)
    kind = found[0] if isinstance(found, tuple) else found
    has_pooler = kind is not None and "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return {"add_pooling_layer": False} if has_pooler else {}
