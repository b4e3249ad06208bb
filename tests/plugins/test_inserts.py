"""Compare methods that put modules into the model with plain implementations of their papers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench
from torch import nn
from torch.nn.functional import gelu

from adapterzoo import Context, block_ends, linear_layers, registry, trained, transformer_layers
from adapterzoo.conformance.models import tiny_base

CONTEXT = Context(quantization="none", total_steps=10, gradient_accumulation=1, seed=0)
IDS = torch.arange(3, 23).view(2, 10)
Edit = Callable[[torch.Tensor], torch.Tensor]


def wrapped(name: str, model: Any, **options: Any) -> Any:
    """Wrap a model, and give the adapter random numbers, because at its start it changes nothing."""
    method = registry()[name]
    adapted = method.wrap(model, method.options(**options), CONTEXT)
    torch.manual_seed(1)
    for parameter in trained(adapted).values():
        parameter.data.add_(torch.randn_like(parameter) / 10)
    return adapted.eval()


@contextmanager
def edited(model: Any, edits: dict[str, Edit]) -> Iterator[Any]:
    """Apply functions to the outputs of modules, with hooks of torch."""

    def hook(edit: Edit) -> Any:
        return lambda module, given, output: (
            (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)
        )

    with ExitStack() as stack:
        for name, edit in edits.items():
            stack.callback(model.get_submodule(name).register_forward_hook(hook(edit)).remove)
        yield model


def loss_and_gradients(model: Any, parameters: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    labels = IDS[:, 0] % 2 if hasattr(model, "num_labels") and "Sequence" in type(model).__name__ else IDS
    output = model(input_ids=IDS, labels=labels)
    return output.logits.detach(), list(torch.autograd.grad(output.loss, parameters))


def assert_same(ours: Any, theirs: Any, base: Any) -> None:
    """Assert that logits and gradients are the same, and that the logits are not those of the base model."""
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-4)
    assert (ours[0] - base[0]).abs().max() > 0.05
    for mine, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


# Architecture -> the type of a task, the layers, and in each layer the modules whose output is added to the residual
# stream, all written by hand. In BERT and T5 that is a dropout, which does nothing here.
PLACES = {
    "llama": ("CAUSAL_LM", ["model.layers.0", "model.layers.1"], ["self_attn", "mlp"]),
    "gpt_neox": ("CAUSAL_LM", ["gpt_neox.layers.0", "gpt_neox.layers.1"], ["attention", "mlp"]),
    "bert": (
        "SEQ_CLS",
        ["bert.encoder.layer.0", "bert.encoder.layer.1"],
        ["attention.output.dropout", "output.dropout"],
    ),
    "t5": (
        "SEQ_2_SEQ_LM",
        ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"],
        ["layer.0.dropout", "layer.1.dropout", "layer.2.dropout"],  # an encoder has no third one
    ),
}


@pytest.mark.parametrize("architecture", PLACES)
def test_bottleneck_adapters_are_those_of_the_paper_behind_attention_and_feed_forward(architecture: str) -> None:
    task_type, layers, ends = PLACES[architecture]
    base = tiny_base(architecture, "none", task_type=task_type)
    with base.borrow() as model:
        untouched = loss_and_gradients(model.requires_grad_(True), list(model.parameters())[:1])
        places = [name for name, _ in model.named_modules() if name in {f"{a}.{b}" for a in layers for b in ends}]
        adapted = wrapped("bottleneck", model, size=4)
        parameters = list(trained(adapted).values())
        ours = loss_and_gradients(adapted, parameters)
    # For each place: the weight and bias of the down-projection, then of the up-projection.
    groups = [[p.detach().requires_grad_() for p in parameters[i : i + 4]] for i in range(0, len(parameters), 4)]
    edits: dict[str, Edit] = {
        place: lambda h, g=group: h + gelu(h @ g[0].T + g[1]) @ g[2].T + g[3]
        for place, group in zip(places, groups, strict=True)
    }
    with base.borrow() as model, edited(model, edits):
        assert_same(ours, loss_and_gradients(model, [p for group in groups for p in group]), untouched)


def orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    """Return the columns of a matrix made orthonormal, by the method of Gram and Schmidt."""
    columns: list[torch.Tensor] = []
    for column in matrix.T:
        for done in columns:
            column = column - (done @ column) * done
        columns.append(column / column.norm())
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("architecture", PLACES)
def test_loreft_edits_the_output_of_each_layer_as_the_paper_says(architecture: str) -> None:
    task_type, layers, _ = PLACES[architecture]
    base = tiny_base(architecture, "none", task_type=task_type)
    with base.borrow() as model:
        untouched = loss_and_gradients(model.requires_grad_(True), list(model.parameters())[:1])
        adapted = wrapped("loreft", model, r=3)
        parameters = list(trained(adapted).values())
        ours = loss_and_gradients(adapted, parameters)
    groups = [[p.detach().requires_grad_() for p in parameters[i : i + 3]] for i in range(0, len(parameters), 3)]

    def edit(h: torch.Tensor, basis: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        rotation = orthonormal(basis).T  # R
        return h + (h @ weight.T + bias - h @ rotation.T) @ rotation

    edits: dict[str, Edit] = {
        layer: lambda h, g=group: edit(h, *g) for layer, group in zip(layers, groups, strict=True)
    }
    with base.borrow() as model, edited(model, edits):
        assert_same(ours, loss_and_gradients(model, [p for group in groups for p in group]), untouched)


def test_the_directions_of_loreft_stay_orthonormal_in_training(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(write_recipe("{name: loreft, r: 4}", steps="12"))
    with bench.wrapped("loreft", bench.load("none")) as model:
        edits = [layer.inserted for layer in model.model.layers]
        first = [edit.directions().detach() for edit in edits]
        bench.train("loreft", model, tmp_path, learning_rate=1e-2)
        for edit, before in zip(edits, first, strict=True):
            directions = edit.directions().detach()
            torch.testing.assert_close(directions.T @ directions, torch.eye(4), rtol=0, atol=1e-5)
            assert (directions - before).abs().max() > 1e-2


def sgd_losses(model: Any, parameters: list[Any]) -> list[float]:
    """Train for four steps, and return the losses."""
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return losses


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_bitfit_trains_the_biases_of_the_model_or_adds_them_to_linear_layers(architecture: str) -> None:
    base, method = tiny_base(architecture, "none"), registry()["bitfit"]
    with base.borrow() as model:
        adapted = method.wrap(model, method.options(), CONTEXT)
        ours = sgd_losses(adapted, list(trained(adapted).values()))
        changes = {name: parameter.detach() for name, parameter in trained(adapted).items()}
    with base.borrow() as model:
        model.requires_grad_(False)
        before = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("bias")}
        assert bool(before) == (architecture == "gpt_neox")
        for name, layer in linear_layers(model).items() if not before else ():
            layer.bias = nn.Parameter(torch.zeros(layer.out_features))
            before[f"{name}.bias"] = torch.zeros(layer.out_features)
        biases = {name: p.requires_grad_() for name, p in model.named_parameters() if name.endswith("bias")}
        assert ours == pytest.approx(sgd_losses(model, list(biases.values())), rel=1e-5)
        assert {name.replace(".inserted.", ".") for name in changes} == biases.keys()
        for name, change in changes.items():
            place = name.replace(".inserted.", ".")
            torch.testing.assert_close(before[place] + change, biases[place].detach(), rtol=1e-4, atol=1e-6)
    base.invalidate()


def test_checkpointing_of_activations_changes_no_gradient() -> None:
    for name in ("bottleneck", "loreft", "bitfit", "ia3-lora"):
        with tiny_base("llama", "none").borrow() as model:
            adapted = wrapped(name, model).train()
            parameters = list(trained(adapted).values())
            plain = loss_and_gradients(adapted, parameters)
            adapted.gradient_checkpointing_enable({"use_reentrant": False})
            again = loss_and_gradients(adapted, parameters)
        for one, other in zip(plain[1], again[1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def family(name: str, **sizes: Any) -> Any:
    """Return a skeleton of an architecture, without weights."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    both = name in ("t5", "bart")
    auto = AutoModelForSeq2SeqLM if both else AutoModel if name in ENCODERS else AutoModelForCausalLM
    config = AutoConfig.for_model(
        name, vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes,
    )  # fmt: skip
    with torch.device("meta"):
        return auto.from_config(config)


ENCODERS = {"bert", "roberta", "distilbert", "modernbert"}
ENDS = {
    "llama": {"self_attn.o_proj", "mlp.down_proj"},
    "qwen3": {"self_attn.o_proj", "mlp.down_proj"},
    "olmo2": {"self_attn.o_proj", "mlp.down_proj"},
    "gemma2": {"self_attn.o_proj", "mlp.down_proj"},
    "phi3": {"self_attn.o_proj", "mlp.down_proj"},
    "gpt_neox": {"attention.dense", "mlp.dense_4h_to_h"},
    "gpt2": {"attn.c_proj", "mlp.c_proj"},
    "opt": {"self_attn.out_proj", "fc2"},
    "bert": {"attention.output.dense", "output.dense"},
    "roberta": {"attention.output.dense", "output.dense"},
    "distilbert": {"attention.out_lin", "ffn.lin2"},
    "modernbert": {"attn.Wo", "mlp.Wo"},
    "t5": {
        "layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo", "layer.1.EncDecAttention.o", "layer.2.DenseReluDense.wo"
    },
    "bart": {"self_attn.out_proj", "encoder_attn.out_proj", "fc2"},
}  # fmt: skip
OTHER_SIZES = {
    "gemma2": {"head_dim": 16},
    "qwen3": {"head_dim": 16},
    "gpt2": {"n_inner": 96, "n_layer": 2},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "distilbert": {"n_layers": 2, "hidden_dim": 96},
    "t5": {"d_ff": 96, "d_kv": 16, "num_decoder_layers": 2},
    "bart": {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96},
}


@pytest.mark.parametrize("name", ENDS)
def test_the_ends_of_blocks_are_found_in_every_family(name: str) -> None:
    model = family(name, **OTHER_SIZES.get(name, {}))
    layers = transformer_layers(model)
    assert len(layers) == (4 if name in ("t5", "bart") else 2)
    ends = {end.removeprefix(f"{layer}.") for end in block_ends(model) for layer in layers if end.startswith(layer)}
    assert ends == ENDS[name]
    method = registry()["bottleneck"]
    assert method.problems(model, method.options(), CONTEXT) == []


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_bottleneck_declines_a_mixture_of_experts(name: str) -> None:
    method = registry()["bottleneck"]
    (problem,) = method.problems(family(name), method.options(), CONTEXT)
    assert "finds in model.layers.0: model.layers.0.self_attn.o_proj." in problem.what


def test_a_rank_above_the_width_is_refused() -> None:
    method = registry()["loreft"]
    (problem,) = method.problems(family("llama"), method.options(r=65), CONTEXT)
    assert str(problem) == "r: is 65, and this model has 64 features. At most 64."
