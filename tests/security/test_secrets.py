"""A login or a key that the environment or a configuration file holds is in nothing that is written or printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import Result

VARIABLES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "COMET_API_KEY", "MLFLOW_TRACKING_TOKEN",
    "NEPTUNE_API_TOKEN", "CLEARML_API_SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY",
)  # fmt: skip


def test_no_secret_is_written_or_printed(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One cell is trained, and one fails with a traceback; a tracker is on."""
    secrets = {name: f"hf_{number}planted{name.replace('_', '').lower()}" for number, name in enumerate(VARIABLES)}
    home = tmp_path / "home"
    (home / "hf").mkdir(parents=True)
    in_files = ("hf_plantedinthefile", "hf_plantedinstoredtokens", "plantedinnetrc")
    (home / "hf/token").write_text(in_files[0])
    (home / "hf/stored_tokens").write_text(f"[mine]\nhf_token = {in_files[1]}\n")
    (home / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {in_files[2]}\n")
    places = {"HOME": str(home), "HF_HOME": str(home / "hf"), "ADAPTERZOO_CACHE": str(tmp_path / "cache")}
    for name, value in {**secrets, **places}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home / "hf/token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_STORED_TOKENS_PATH", str(home / "hf/stored_tokens"))
    assert huggingface_hub.get_token() == secrets["HF_TOKEN"]
    recipe = write_recipe("lora, {name: lora, label: fails, learning_rate: 1.0e+30}", steps="3", shots="0")
    out = tmp_path / "out"
    sets = ("train.loggers=[tensorboard]", "train.warmup=0", "evaluate.base=false")
    options = [part for setting in sets for part in ("--set", setting)]
    done = adapterzoo("--debug", "run", recipe, *options, "--jobs", "0", "--out", out)
    assert done.exit_code == 1, done.output
    assert "became nan" in (out / "fails/seed-0/traceback.txt").read_text()
    assert list(out.glob("lora/seed-0/logs/**/events*"))
    printed = [done.output, *(adapterzoo("compare", out, "--format", style).output for style in ("json", "html"))]
    answer = ("--debug", "generate", out, "-m", "lora", "--prompt", "go", "--max-new-tokens", "1")
    unknown = ("--debug", "check", recipe, "--set", "model.name=nobody/private", "--set", "data.source=nobody/private")
    printed += [adapterzoo(*arguments).output for arguments in (answer, unknown)]
    assert "Traceback" in printed[-1]
    written = [path for folder in (out, tmp_path / "cache") for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    contents = {str(path): path.read_bytes() for path in written} | {text[:40]: text.encode() for text in printed}
    for secret in (*secrets.values(), *in_files):
        for encoded in (secret.encode(), secret.encode("utf-16-le")):
            assert not [name for name, content in contents.items() if encoded in content], secret
