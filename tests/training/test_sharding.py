"""Check that a model is as it was after its weights were divided among processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapterzoo.machine import ranks
from adapterzoo.machine.processes import Send, wait_for_any
from adapterzoo.machine.rank_processes import forked_ranks


def everything(model: Any) -> list[Any]:
    """Return the classes, the parameters, the hooks and the names of all attributes of a model's modules."""
    found = []
    for module in model.modules():
        hooks = {name: list(value) for name, value in vars(module).items() if name.endswith("hooks")}
        parameters = {name: id(parameter) for name, parameter in module._parameters.items()}
        found.append((type(module).__name__, parameters, hooks, sorted(vars(module))))
    return found


def test_a_divided_model_is_put_together_again(tiny_model: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from adapterzoo.model import base
    from adapterzoo.recipe.schema import ModelSection
    from adapterzoo.training.sharding import average_gradients, sharded

    loaded = base.load(ModelSection(name=str(tiny_model), dtype="float32"), str(tiny_model), "none", 64)

    def work(send: Send) -> None:
        ranks.join()
        with loaded.borrow() as model:
            wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
            before, ids = everything(wrapped), torch.arange(3, 20)[None]
            for _ in range(2):  # a process may train several cells
                with sharded(wrapped):
                    divided = [type(parameter).__name__ for parameter in wrapped.parameters()].count("DTensor")
                    wrapped(input_ids=ids, labels=ids).loss.backward()
                    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
                    for parameter in trained:
                        parameter.grad.fill_(ranks.number())
                    average_gradients(trained)
                    with torch.no_grad():
                        wrapped(input_ids=ids)  # nothing is taken apart after this
                wrapped.state_dict()
            same = everything(wrapped) == before
            send((same, divided, [float(parameter.grad.mean()) for parameter in trained]))

    process, messages = forked_ranks(2, work, 1), list[Any]()
    while process.alive:
        wait_for_any([process])
        messages += process.messages()
    messages += process.messages()
    assert messages, process.output()
    same, divided, gradients = messages[0]
    assert same
    assert divided == 20, "all weights of the base model"
    assert gradients == [0.5] * 4
