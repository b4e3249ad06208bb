"""Check that weights outside of memory are read when they are used, and that training with them is the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench, assert_same
from mixtures import save_mixture
from tiny import RECIPE

from adapterzoo.machine.processes import Process
from adapterzoo.model import base, offloaded
from adapterzoo.recipe.schema import ModelSection

METHODS = ("lora", "ia3", "adalora", "oft", "lokr", "loha", "dora", "bitfit", "bottleneck")
ON_DISK = {"device_map": "auto", "max_memory": {"cpu": "250kB"}}


def load(folder: Path, **settings: Any) -> base.Base:
    section = ModelSection.model_validate({"name": str(folder), "dtype": "float32", **settings})
    return base.load(section, str(folder), "none", 64)


@pytest.fixture(scope="module")
def on_disk(tiny_model: Path) -> base.Base:
    return load(tiny_model, **ON_DISK)


@pytest.fixture
def model(on_disk: base.Base) -> Iterator[Any]:
    with on_disk.borrow() as model:
        yield model


@pytest.fixture(scope="module")
def bench(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    recipe = tmp_path_factory.mktemp("offloaded") / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods=", ".join(METHODS)), encoding="utf-8")
    return Bench(recipe, "train.steps=3")


@pytest.fixture(scope="module")
def in_memory(tiny_model: Path) -> base.Base:
    return load(tiny_model)


@pytest.mark.parametrize("label", METHODS)
def test_adapters_are_the_same_to_the_bit(
    label: str, bench: Bench, on_disk: base.Base, in_memory: base.Base, tmp_path: Path
) -> None:
    expected = bench.adapter(label, in_memory, tmp_path / "in memory")
    assert_same(bench.adapter(label, on_disk, tmp_path / "on disk"), expected)
    assert not on_disk.was_changed


def test_the_large_weights_are_not_in_memory(model: Any, on_disk: base.Base, in_memory: base.Base) -> None:
    held = {name for name, parameter in model.named_parameters() if not parameter.is_meta}
    assert held == {name for name, parameter in model.named_parameters() if parameter.dim() < 2} | {
        "model.embed_tokens.weight"
    }
    assert on_disk.bytes < in_memory.bytes / 4
    assert on_disk.parameters == in_memory.parameters, "they are counted all the same"
    layer = model.model.layers[0].self_attn.q_proj
    assert torch.equal(layer.weight, in_memory.get_model().model.layers[0].self_attn.q_proj.weight)
    assert not any(hasattr(module, "_hf_hook") for module in model.modules()), "without GPUs they have no use"


def test_a_weight_that_would_be_replaced_is_named(model: Any) -> None:
    """PEFT puts a parametrization in place of the experts of a mixture that ``target_parameters`` names."""
    layer = model.model.layers[0].self_attn.q_proj
    with pytest.raises(RuntimeError, match="an offloaded weight of the base model cannot be replaced"):
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", torch.nn.Identity())


def test_autograd_keeps_none_of_them(on_disk: base.Base) -> None:
    ids = torch.arange(3, 20)[None]

    def in_use_after_forward() -> int:
        embedded = model.get_input_embeddings()(ids).requires_grad_()
        output = model(inputs_embeds=embedded).logits  # its graph lives until the end of this function
        in_use = offloaded.in_use()
        output.sum().backward()
        assert embedded.grad.abs().max() > 0
        return in_use

    with on_disk.borrow() as model:
        assert in_use_after_forward() == 0
    model = on_disk.get_model()
    assert in_use_after_forward() == 14, "all layers, if nothing is done about it"
    assert offloaded.in_use() == 0


def test_a_graph_that_nobody_goes_back_through_is_freed(model: Any) -> None:
    """A method that computes the norms of weights when it wraps the model makes such a graph."""
    output = torch.ones(3, requires_grad=True).exp()  # autograd keeps the output of this function
    gone = weakref.ref(output)
    del output
    assert gone() is None


def test_weights_are_converted_when_they_are_read(tiny_model: Path) -> None:
    ids = torch.arange(3, 20)[None]
    spread, whole = (load(tiny_model, **more, dtype="bfloat16").get_model() for more in (ON_DISK, {}))
    assert spread.model.layers[1].mlp.up_proj.weight.dtype == torch.bfloat16
    assert torch.equal(spread(ids).logits, whole(ids).logits)


def test_models_with_one_offload_folder_do_not_overwrite_each_other(tiny_model: Path, tmp_path: Path) -> None:
    """Joined experts are written there under the names of the weights, which all models of a kind share."""
    on_disk = {**ON_DISK, "offload_folder": str(tmp_path / "folder")}
    first = save_mixture("mixtral", tiny_model, tmp_path / "first")
    second = save_mixture("mixtral", tiny_model, tmp_path / "second", initializer_range=0.5)
    loaded = load(first, **on_disk)
    experts = loaded.get_model().model.layers[0].mlp.experts
    before = experts.down_proj.clone()
    other = load(second, **on_disk)
    assert torch.equal(experts.down_proj, before)
    process = Process(lambda send: send(load(second, **on_disk).bytes), 1)  # of another run, for example
    assert process.wait() == 0, process.output()
    assert torch.equal(experts.down_proj, before)
    assert {path.name for path in (tmp_path / "folder").iterdir() if path.is_dir()} == {"2", "3"}
    del other, loaded, experts
    gc.collect()
    load(second, **on_disk)
    assert {path.name for path in (tmp_path / "folder").iterdir() if path.is_dir()} == {"2", "3"}, "it is free again"


def test_an_offloaded_weight_is_not_changed_or_trained_silently(model: Any) -> None:
    layer = model.model.layers[0].mlp.up_proj
    with pytest.raises(RuntimeError, match="an offloaded weight of the base model cannot be changed"):
        layer.weight.data = layer.weight.data * 2
    with pytest.raises(RuntimeError, match="cannot be changed"):
        layer.weight.data += 1
    layer._parameters["weight"].requires_grad_(True)
    with pytest.raises(RuntimeError, match="an offloaded weight of the base model cannot be trained"):
        layer(torch.ones(1, 64))


def test_what_takes_the_place_of_a_weight_is_used_until_the_model_is_restored(on_disk: base.Base) -> None:
    ids = torch.arange(3, 20)[None]
    with on_disk.borrow() as model, torch.no_grad():
        before, layer = model(ids).logits, model.model.layers[0].mlp.up_proj
        layer.weight = torch.nn.Parameter(torch.zeros_like(layer.weight), requires_grad=False)
        assert not torch.equal(model(ids).logits, before)
    with on_disk.borrow() as model, torch.no_grad():
        assert torch.equal(model(ids).logits, before)


def test_a_weight_that_was_changed_in_place_is_kept_for_the_backward_pass(model: Any) -> None:
    layer, x = model.model.layers[0].mlp.up_proj, torch.ones(1, 64, requires_grad=True)
    weight = layer.weight
    weight.add_(1.0)
    torch.nn.functional.linear(x, weight).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, weight.sum(dim=0, keepdim=True)), "and not read again"
