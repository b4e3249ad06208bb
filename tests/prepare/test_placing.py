"""Check where the parts of a model are kept, and that what cannot work is refused before weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from mixtures import save_mixture

ON_DISK = ("--set", "model.device_map=auto", "--set", "model.max_memory={cpu: 250kB}")


def test_check_says_what_each_place_keeps(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    # pissa was seen to fail with weights outside of memory; without a limit all of them are in memory.
    whole = adapterzoo("check", write_recipe("pissa"), "--set", "model.device_map=auto")
    spread = adapterzoo("check", write_recipe("lora"), *ON_DISK)
    assert "weights: 362kB in memory\n" in whole.stdout
    assert "weights: 66.3kB in memory, 296kB on disk\n" in spread.stdout
    memory = [
        float(line.split()[-1].removesuffix("MB"))
        for line in (whole.stdout + spread.stdout).splitlines()
        if line.startswith(("pissa ", "lora "))
    ]
    assert memory[0] - memory[1] == pytest.approx(0.296, abs=0.011)


@pytest.mark.parametrize(
    ("sets", "methods", "problem"),
    [
        (["model.max_memory={cpu: 50kB}"], "lora", "model.max_memory: allows 50.0kB in memory: too little for"),
        (["model.max_memory={0: 5GB}"], "lora", "model.max_memory: names GPU 0, and this machine has no GPU."),
        (
            ["model.max_memory={gpu: 5GB}"],
            "lora",
            "must be numbers of GPUs, and cpu, with sizes in kB, MB, GB or TB, like {0:",
        ),
        (
            ["model.max_memory={cpu: much}"],
            "lora",
            "must be numbers of GPUs, and cpu, with sizes in kB, MB, GB or TB, like {0:",
        ),
        (["train.devices=2"], "lora", "model.device_map: is auto, which is for one process, and train.devices is 2."),
        (
            ["model.quantization=nf4"],
            "lora",
            "not quantized as nf4. Leave out model.quantization, or model.device_map.",
        ),
        ([], "lora, qlora", "read from there as they are, and not quantized as nf4. Leave out qlora, or"),
        (["model.offload_folder=/dev/null/x"], "lora", "model.offload_folder: is no folder that can be written: /dev"),
        ([], "lora, pissa", "model.device_map: leaves weights outside of memory, and pissa was seen to fail then:"),
    ],
)
def test_what_cannot_work_is_refused(
    sets: list[str], methods: str, problem: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    no_weights: None,
) -> None:  # fmt: skip
    more = [argument for text in sets for argument in ("--set", text)]
    done = adapterzoo("check", write_recipe(methods), *ON_DISK, *more)
    assert done.exit_code == 2, done.output
    assert problem in " ".join(done.stderr.split())


def test_max_memory_without_device_map_is_refused(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    done = adapterzoo("check", write_recipe("lora"), "--set", "model.max_memory={cpu: 1GB}")
    assert done.exit_code == 2
    assert "'model.max_memory' is of no use without model.device_map" in " ".join(done.stderr.split())


def test_a_folder_that_keeps_nothing_is_named(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    folder = ("--set", f"model.offload_folder={tmp_path / 'weights'}")
    done = adapterzoo("check", write_recipe("lora"), *folder)
    assert done.exit_code == 2
    assert "'model.offload_folder' is of no use without model.device_map" in " ".join(done.stderr.split())
    done = adapterzoo("check", write_recipe("lora"), *folder, "--set", "model.device_map=auto")
    assert done.exit_code == 0, done.output
    assert "nothing is kept in model.offload_folder, because no weight is on the disk" in done.stdout


def test_experts_that_transformers_joins_need_a_folder(
    tiny_model: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    sets = (
        *ON_DISK,
        "--set",
        f"model.name={save_mixture('mixtral', tiny_model, tmp_path / 'moe')}",
        "--set",
        "model.max_memory={cpu: 250kB}",
    )
    done = adapterzoo("check", write_recipe("lora"), *sets)
    assert done.exit_code == 2, done.output
    assert "model.offload_folder: is needed: 'model.layers." in " ".join(done.stderr.split())
    quick = ("--set", "train.steps=1", "--set", "evaluate.base=false", "--set", "evaluate.shots=0", "--set", "jobs=0")
    folder = tmp_path / "weights"
    sets = (*sets, "--set", f"model.offload_folder={folder}")
    done = adapterzoo("run", write_recipe("lora"), *sets, *quick, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert {path.name.split(".")[-2] for path in folder.iterdir()} <= {"gate_up_proj", "down_proj"}
    done = adapterzoo("check", write_recipe("{name: lora, label: deep, target_parameters: all-experts}"), *sets)
    assert done.exit_code == 2
    assert "where deep cannot adapt fused experts (target_parameters)." in " ".join(done.stderr.split())
