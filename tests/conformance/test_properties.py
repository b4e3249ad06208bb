"""The conformance kit finds a broken example of each property, and does not blame other properties."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import METHODS
from torch import nn

from adapterzoo import Context, LayerMethod, LinearOptions, PeftMethod, features
from adapterzoo.conformance import PROPERTIES, Case, Report, cases, task_cases
from adapterzoo.methods.registry import registry


class Layer(nn.Module):
    """A sound low-rank layer; each broken example changes one thing."""

    def __init__(self, linear: Any, options: Any) -> None:
        super().__init__()
        inputs, outputs = features(linear)
        self.base = linear
        self.a = nn.Parameter(torch.randn(options.r, inputs) / inputs**0.5)
        self.b = nn.Parameter(torch.zeros(outputs, options.r))

    def add(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.a.dtype) @ self.a.T @ self.b.T

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = self.base(x)
        return output + self.add(x).to(output.dtype)

    def update(self) -> torch.Tensor:
        return self.b @ self.a


class Options(LinearOptions):
    r: int = 4


class Sound(LayerMethod[Options]):
    name, summary, paper = "sound", "a sound method", "-"
    options = Options
    learning_rate, learning_rate_source = 1e-3, "-"
    size_option = "r"
    layer_class: type[nn.Module] = Layer
    token_wise = True

    def layer(self, linear: nn.Module, options: Options) -> nn.Module:
        return self.layer_class(linear, options)


def method(**attributes: Any) -> Sound:
    return type("Example", (Sound,), attributes)()


def layer(**functions: Callable[..., Any]) -> dict[str, Any]:
    return {"layer_class": type("BrokenLayer", (Layer,), functions)}


def does_not_start_at_the_base(self: Any, linear: Any, options: Any) -> None:
    Layer.__init__(self, linear, options)
    nn.init.normal_(self.b, std=0.1)


def reads_quantized_codes(self: Any, x: torch.Tensor) -> torch.Tensor:
    return Layer.forward(self, x) + nn.functional.linear(x, self.base.weight.detach().to(x.dtype)) / 1e3


def raises_in_training(self: Any, x: torch.Tensor) -> torch.Tensor:
    if self.training:
        raise RuntimeError("on purpose")
    return Layer.forward(self, x)


def raises_the_loss(self: Any, linear: Any, options: Any) -> None:
    Layer.__init__(self, linear, options)
    self.b.register_hook(lambda gradient: -gradient)


def in_the_bases_precision(self: Any, linear: Any, options: Any) -> None:
    Layer.__init__(self, linear, options)
    self.to(linear.weight.dtype)


def has_a_spare_parameter(self: Any, linear: Any, options: Any) -> None:
    Layer.__init__(self, linear, options)
    self.spare = nn.Parameter(torch.zeros(3))


def moves_the_base(self: Any, x: torch.Tensor) -> torch.Tensor:
    if self.training:
        self.base.weight.data.mul_(1.001)
    return Layer.forward(self, x)


def looks_at_the_whole_batch(self: Any, x: torch.Tensor) -> torch.Tensor:
    return Layer.add(self, x - x.mean(dim=(0, 1)))


def adds_noise(self: Any, x: torch.Tensor) -> torch.Tensor:
    added = Layer.add(self, x)
    return added + 1e-3 * torch.randn_like(added) if self.training else added


def forgets_the_cache(self: Any, x: torch.Tensor) -> torch.Tensor:
    return Layer.add(self, x) * (5 if x.shape[1] > 1 else -5)


def saves_half(self: Any, model: Any, folder: Path) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(".b"):
            parameter.data = parameter.data.bfloat16().float()
    LayerMethod.save(self, model, folder)


def saves_a_pickle(self: Any, model: Any, folder: Path) -> None:
    LayerMethod.save(self, model, folder)
    (folder / "optimizer.pt").write_bytes(pickle.dumps({}))


def merges_twice(self: Any) -> torch.Tensor:
    return 2 * Layer.update(self)


class Bottleneck(Layer):
    """A layer whose effect is not a change of the weight: it cannot merge, but does not say so."""

    update = property()  # type: ignore[assignment]  # hides Layer's function

    def add(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.to(self.a.dtype) @ self.a.T) @ self.b.T


def exits(self: Any, model: Any, *_: Any) -> None:
    if not next(model.parameters()).is_meta:
        raise SystemExit(0)


def misspelt_callback(self: Any, options: Any, context: Any) -> list[Any]:
    from transformers import TrainerCallback

    class Misspelt(TrainerCallback):  # type: ignore[misc]
        def on_optimiser_step(self, *arguments: Any, **keywords: Any) -> None:
            raise AssertionError("never called")

    return [Misspelt()]


def ignores_the_size(self: Any, linear: Any, options: Any) -> None:
    Layer.__init__(self, linear, Options(r=2))


def counts_in_python(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.__dict__["passes"] = self.__dict__.get("passes", 0) + self.training
    return Layer.add(self, x) * (1 + self.__dict__["passes"])


def draws_elsewhere(self: Any, linear: Any, options: Any) -> None:
    Layer.__init__(self, linear, options)
    self.a.data += os.urandom(1)[0] / 255 / 100


def twice_the_rate(self: Any, model: Any, options: Any, kind: Any, settings: dict[str, Any]) -> Any:
    return kind([p for p in model.parameters() if p.requires_grad], **{**settings, "lr": 2 * settings["lr"]})


def merges_one_rank(self: Any) -> torch.Tensor:
    return Layer.update(self) * (1 if self.a.shape[0] == 4 else 2)


def replaces_a_function(self: Any, model: Any, options: Any, context: Any) -> nn.Module:
    forward = nn.Dropout.forward
    nn.Dropout.forward = lambda layer, x: forward(layer, x)  # type: ignore[method-assign]
    return LayerMethod.wrap(self, model, options, context)


def keeps_a_list(self: Any, model: Any, options: Any, context: Any) -> nn.Module:
    self.seen = [*getattr(self, "seen", []), 1]
    return LayerMethod.wrap(self, model, options, context)


class Scaled(Layer):
    """A layer with a factor that is not saved."""

    factor = 1.0

    def add(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * Layer.add(self, x)

    def update(self) -> torch.Tensor:
        return self.factor * Layer.update(self)


class KeepsItsFactor(Sound):
    """A method that keeps a factor in its class when it wraps, and so loses it in another process."""

    layer_class = Scaled

    def wrap(self, model: nn.Module, options: Options, context: Context) -> nn.Module:
        Scaled.factor = 2.0
        return super().wrap(model, options, context)


class SavesHalf(PeftMethod[Options]):
    """A LoRA that saves half of its update, and doubles it again when it loads."""

    name, summary, paper = "saves-half", "a LoRA that plain PEFT loads wrongly", "-"
    options = Options
    learning_rate, learning_rate_source = 1e-3, "-"

    def peft_config(self, model: nn.Module, options: Options, context: Any) -> Any:
        from peft import LoraConfig

        return LoraConfig(r=options.r, target_modules="all-linear")

    def save(self, model: nn.Module, folder: Path) -> None:
        self.scale(model, 0.5)
        super().save(model, folder)
        self.scale(model, 2.0)

    def load(self, model: nn.Module, folder: Path, options: Options, context: Any) -> nn.Module:
        return self.scale(super().load(model, folder, options, context), 2.0)

    @staticmethod
    def scale(model: nn.Module, factor: float) -> nn.Module:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.mul_(factor)
        return model


BROKEN = {
    "wraps": [
        method(wrap=lambda *_: 1 / 0), method(wrap=lambda *_: None), method(wrap=exits), method(problems=lambda *_: 7),
        method(_put_layers=lambda self, model, options: model.requires_grad_(False)),
    ],
    "starts at base": [method(**layer(__init__=does_not_start_at_the_base))],
    "same when quantized": [method(**layer(forward=reads_quantized_codes))],
    "trains": [method(**layer(forward=raises_in_training))],
    "learns": [method(**layer(__init__=raises_the_loss))],
    "bfloat16": [method(**layer(__init__=in_the_bases_precision))],
    "gradients": [method(**layer(__init__=has_a_spare_parameter))],
    "base untouched": [method(**layer(forward=moves_the_base))],
    "rows alone": [method(**layer(add=looks_at_the_whole_batch))],
    "shares a prefix": [method(**layer(add=adds_noise))],
    "generates": [method(**layer(add=forgets_the_cache))],
    "saves": [method(save=saves_half), method(save=saves_a_pickle), method(load=lambda self, model, folder: model)],
    "merges": [
        method(**layer(update=merges_twice)), method(layer_class=Bottleneck), method(merge=lambda self, model: model),
    ],
    "works elsewhere": [KeepsItsFactor(), SavesHalf()],
    "other options": [method(**layer(update=merges_one_rank))],
    "keeps rules": [method(optimizer=twice_the_rate)],
    "leaves nothing behind": [method(wrap=replaces_a_function), method(wrap=keeps_a_list)],
    "findings": [method(findings=lambda self, model: {"scale": torch.tensor(1.0)}), method(findings=lambda *_: 5)],
    "callbacks fire": [method(callbacks=misspelt_callback)],
    "size changes": [method(**layer(__init__=ignores_the_size))],
    "resumes": [method(**layer(add=counts_in_python))],
    "repeats": [method(**layer(__init__=draws_elsewhere))],
}  # fmt: skip
# Some faults break further properties too; for example, a loaded or resumed adapter then differs as well.
ALSO_BROKEN = {
    "same when quantized": {"starts at base"},
    "learns": {"other options"},
    "base untouched": {
        "keeps rules", "leaves nothing behind", "merges", "other options", "resumes", "saves", "shares a prefix",
        "repeats", "bfloat16",
    },
    "rows alone": {"generates", "merges", "other options", "shares a prefix"},
    "generates": {"merges", "other options", "rows alone"},
    "saves": {"bfloat16", "other options"},
    "merges": {"other options"},
    "works elsewhere": {"other options"},
    "keeps rules": {"other options"},
    "size changes": {"other options"},
    "resumes": {"bfloat16", "merges", "other options", "saves", "shares a prefix"},
    "repeats": {"resumes", "saves"},
}  # fmt: skip


def run(method: Sound, base: str, architecture: str = "gpt_neox") -> Report:
    # Other options are tried on the first architecture only, which takes as long as everything else together.
    return Case(method, architecture, base).run()


def test_a_sound_method_passes() -> None:
    for base in ("none", "int8", "nf4"):
        report = run(method(), base, "llama")
        assert not report.failures, str(report)
        assert str(report) == f"sound on llama, {base}: sound"


def test_there_is_a_broken_example_of_every_property() -> None:
    assert set(BROKEN) == set(PROPERTIES)


@pytest.mark.parametrize(("name", "broken"), [(name, broken) for name, methods in BROKEN.items() for broken in methods])
def test_a_broken_method_fails(name: str, broken: Sound) -> None:
    architecture = "llama" if name == "other options" else "gpt_neox"
    report = run(broken, "int8" if name == "same when quantized" else "none", architecture)
    assert name in report.failures, str(report)
    assert set(report.failures) <= {name, *ALSO_BROKEN.get(name, ())}, str(report)
    assert str(report).endswith("test_properties.py"), "the file of the method"
    if name not in ("wraps", "trains", "callbacks fire", "findings", "merges", "saves"):
        assert any(letter.isdigit() for letter in report.failures[name]), "the numbers"


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        ({"starts_at_base": False, **layer(__init__=does_not_start_at_the_base)}, "starts at base"),
        ({"changes_base": True, **layer(forward=moves_the_base)}, "base untouched"),
        ({"mergeable_into": (), **layer(update=merges_twice)}, "merges"),
        ({"token_wise": False, **layer(add=adds_noise)}, "shares a prefix"),
        ({"resumes": False, **layer(add=counts_in_python)}, "resumes"),
        ({"size_option": None, **layer(__init__=ignores_the_size)}, "size changes"),
    ],
)
def test_a_property_that_is_declared_not_to_hold_is_not_checked(declared: dict[str, Any], name: str) -> None:
    assert run(method(**declared), "none").verdicts[name] == "-"


def test_a_method_that_declines_says_why() -> None:
    from adapterzoo import Problem

    declining = method(problems=lambda *_: [Problem("r", "does not fit.")])
    report = run(declining, "none")
    assert report.declined == "r: does not fit."
    assert not report.failures


def test_an_error_of_the_methods_own_code_is_no_reason_to_decline() -> None:
    def refuses(self: Any, linear: Any, options: Any) -> None:
        raise ValueError("on purpose")

    report = run(method(**layer(__init__=refuses)), "none")
    assert report.declined is None
    assert "ValueError: on purpose" in report.failures["wraps"]


class Share(LinearOptions):
    share: float = 0.5


def test_a_size_option_may_be_a_float() -> None:
    def layer_of_a_share(self: Any, linear: Any, options: Share) -> nn.Module:
        return Layer(linear, Options(r=max(1, int(8 * options.share))))

    report = run(method(options=Share, size_option="share", layer=layer_of_a_share), "none")
    assert "size changes" not in report.failures, str(report)


def test_a_save_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    from adapterzoo.conformance import trial

    def hangs(self: Any, model: Any, folder: Path) -> None:
        while True:
            time.sleep(0.1)

    monkeypatch.setattr(trial, "LIMIT_SECONDS", 5)
    assert "save took longer than 5 seconds" in run(method(save=hangs), "none").failures["saves"]


def test_weights_in_a_folder_below_are_found() -> None:
    def saves_below(self: Any, model: Any, folder: Path) -> None:
        LayerMethod.save(self, model, folder / "below")

    def loads_below(self: Any, model: Any, folder: Path, options: Any, context: Any) -> Any:
        return LayerMethod.load(self, model, folder / "below", options, context)

    assert not run(method(save=saves_below, load=loads_below), "none").failures


def test_the_message_about_a_dtype_fits_the_dtype() -> None:
    def doubles(self: Any, linear: Any, options: Any) -> None:
        Layer.__init__(self, linear, options)
        self.a.data, self.b.data = self.a.data.double(), self.b.data.double()

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return Layer.add(self, x).to(x.dtype) + self.base(x)

    failure = run(method(**layer(__init__=doubles, forward=forward)), "none").failures["bfloat16"]
    assert "float64" in failure
    assert "256th" not in failure


def test_a_report_has_short_lines_and_says_the_main_thing_first() -> None:
    with pytest.raises(AssertionError) as caught:
        Case(method(save=saves_half), "gpt_neox", "none").check()
    lines = str(caught.value).splitlines()
    assert lines[0] == "not sound: saves (sound on gpt_neox, none)"
    assert all(len(line) <= 100 for line in lines[:-1])


def test_what_a_method_leaves_behind_does_not_reach_the_next() -> None:
    before = nn.Dropout.forward
    report = run(method(wrap=replaces_a_function), "none", "llama")
    assert "torch.nn.modules.dropout.Dropout.forward" in report.failures["leaves nothing behind"]
    assert nn.Dropout.forward is before


def test_cases_cover_two_architectures_and_every_declared_quantization() -> None:
    assert [str(case) for case in cases("qlora")] == ["qlora-llama-nf4", "qlora-gpt_neox-nf4"]
    assert len(cases(method())) == 6


def quick(case: Case) -> bool:
    """Tell whether a case is among those that run by default; ``adapterzoo plugin check --all`` tries all of them.

    The seven methods of the quickstart are tried with every quantization, and for three types of tasks. For the others,
    one quantization has to be enough. Those that leave the layers to PEFT, and so the new heads of other tasks, are
    tried on a Llama only; those with layers of their own on two architectures, and for classification.
    """
    first = case.quantization == case.method.quantizations[0]
    if case.method.name in METHODS:
        return case.task_type in ("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM") and (first or case.architecture == "llama")
    if isinstance(case.method, PeftMethod):
        return first and case.architecture == "llama" and case.task_type == case.method.task_types[0]
    return first and case.architecture in ("llama", "gpt_neox") and case.task_type in ("CAUSAL_LM", "SEQ_CLS")


# This runs by default although it takes long, because the comparison relies on sound methods.
@pytest.mark.parametrize(
    "case",
    [
        case
        for name in registry()
        if not registry()[name].unavailable
        for case in (*cases(name), *task_cases(name))
        if quick(case)
    ],
    ids=str,
)
def test_every_method_of_the_zoo_is_sound(case: Case) -> None:
    case.check()


def test_a_head_that_is_not_saved_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_head(method: Any, wrapped: Any, head: Any, folder: Any) -> None:
        for parameter in head.values():
            parameter.requires_grad_(False)
        method.save(wrapped, folder)

    # The package has a function that is called like this module, so take the module from sys.modules.
    monkeypatch.setattr(sys.modules["adapterzoo.conformance.trial"], "save_adapter", without_head)
    (case,) = (case for case in task_cases("lora-scratch", ["SEQ_CLS"]) if case.architecture == "llama")
    assert "saves" in case.run().failures
