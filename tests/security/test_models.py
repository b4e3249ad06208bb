"""Models from strangers: what would run code or reach other files is refused with a reason, or has no effect."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from refusals import refused

from adapterzoo.data_row import DataRow, Turn
from adapterzoo.errors import UserError
from adapterzoo.recipe.schema import DataSection, ModelSection
from adapterzoo.tokens.encode import Encoder
from adapterzoo.tokens.tokenizer import load_tokenizer

Bomb = Callable[[Path], None]
OWN_CODE = """\
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({canary!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass


def generate(model, *args, **kwargs):
    return model.generate(*args, **kwargs)
"""
OWN_CLASSES = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, canary: Path) -> Path:
    """Return a copy of the tiny model, with a file of code that makes the canary."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "own.py").write_text(OWN_CODE.format(canary=str(canary)))
    return folder


@pytest.fixture
def check(write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], model: Path) -> Callable[..., Result]:
    """Return a function that checks a recipe with the model, or runs another command on it."""

    def run(command: str = "check", *arguments: Any, **changes: str) -> Result:
        recipe = write_recipe("ia3", shots="0", **changes)
        return adapterzoo(command, recipe, "--set", f"model.name={model}", *arguments)

    return run


def test_what_a_model_carries_beside_its_own_files_has_no_effect(
    model: Path, check: Callable[..., Result], bomb: Bomb, tmp_path: Path
) -> None:
    change(
        model / "config.json",
        auto_map={**OWN_CLASSES, "AutoTokenizer": ["own.OwnTokenizer", None]},
        _attn_implementation_internal="stranger/kernel",
        _experts_implementation_internal="stranger/kernel",
        trust_remote_code=True,
        custom_generate="stranger/generate",
        _name_or_path="stranger/model",
    )
    change(
        model / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["own.OwnTokenizer", "stranger/tokenizer--own.OwnTokenizer"]},
        trust_remote_code=True,
        name_or_path="stranger/tokenizer",
        tokenizer_file=str(tmp_path / "another.json"),
    )
    change(model / "generation_config.json", custom_generate="stranger/generate", trust_remote_code=True)
    (model / "custom_generate").mkdir()
    shutil.copy(model / "own.py", model / "custom_generate" / "generate.py")
    for name in ("pytorch_model.bin", "training_args.bin", "tokenizer.pkl", "model.pt", "custom_generate/weights.bin"):
        bomb(model / name)
    (model / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    done = check("run", "--jobs", "0", "--out", tmp_path / "out", steps="1")
    assert done.exit_code == 0, done.output


def unknown_architecture(model: Path, bomb: Bomb) -> str:
    change(model / "config.json", model_type="own", auto_map=OWN_CLASSES)
    return "it comes with its own code, which is not run without your permission"


def code_of_another_repository(model: Path, bomb: Bomb) -> str:
    elsewhere = {name: f"stranger/code--{value}" for name, value in OWN_CLASSES.items()}
    change(model / "config.json", model_type="own", auto_map=elsewhere)
    return "it comes with its own code, which is not run without your permission"


def kernel(model: Path, bomb: Bomb) -> str:
    change(model / "config.json", attn_implementation="stranger/kernel")
    return "names code for its attention, 'stranger/kernel', which is not run. If you trust its authors, set"


def private_kernel(model: Path, bomb: Bomb) -> str:
    change(model / "config.json", _attn_implementation={"": "paged|stranger/kernel@main:run"})
    return "names code for its attention"


def pickle_only(model: Path, bomb: Bomb) -> str:
    (model / "model.safetensors").unlink()
    bomb(model / "pytorch_model.bin")
    return "cannot be loaded"


def gguf_only(model: Path, bomb: Bomb) -> str:
    for name in ("model.safetensors", "config.json"):
        (model / name).unlink()
    (model / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    return "cannot be loaded"


def index_of_pickles(model: Path, bomb: Bomb) -> str:
    (model / "model.safetensors").unlink()
    bomb(model / "part.bin")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "part.bin"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return "model.safetensors.index.json: names 'part.bin', which is no safetensors file in the folder of the model."


def index_that_leads_outside(model: Path, bomb: Bomb) -> str:
    shutil.move(model / "model.safetensors", model.parent / "mine.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../mine.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return "names '../mine.safetensors', which is no safetensors file in the folder of the model."


def pipe(model: Path, bomb: Bomb) -> str:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")  # reading it would wait for ever
    return "config.json: is not an ordinary file."


def adapter_in_the_folder(model: Path, bomb: Bomb) -> str:
    mapping = {"base_model_class": "OwnModel", "parent_library": "own"}
    config = {"peft_type": "LORA", "auto_mapping": mapping, "base_model_name_or_path": "stranger/model"}
    (model / "adapter_config.json").write_text(json.dumps(config))
    bomb(model / "adapter_model.bin")
    return "adapter_config.json: is an adapter in the folder of the model"


def tokenizer_with_code(model: Path, bomb: Bomb) -> str:
    change(model / "config.json", model_type="gpt_neox")
    change(
        model / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
    )
    return ""  # with a fallback of transformers the tokenizer may load without the code


def tokenizer_that_is_a_model(model: Path, bomb: Bomb) -> str:
    bomb(model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    change(model / "tokenizer_config.json", tokenizer_class="AutoModelForCausalLM")
    return "cannot be loaded"


def tokenizer_that_is_a_function(model: Path, bomb: Bomb) -> str:
    change(model / "tokenizer_config.json", tokenizer_class="pipeline")
    return "cannot be loaded"


def template_that_is_saved_elsewhere(model: Path, bomb: Bomb) -> str:
    templates = [{"name": "default", "template": "{{ messages }}"}, {"name": "../../canary", "template": "x"}]
    (model / "chat_template.jinja").unlink()
    change(model / "tokenizer_config.json", chat_template=templates)
    return "has a chat template with the name '../../canary', which is no word."


@pytest.mark.parametrize(
    "craft",
    [
        unknown_architecture,
        code_of_another_repository,
        kernel,
        private_kernel,
        pickle_only,
        gguf_only,
        index_of_pickles,
        index_that_leads_outside,
        pipe,
        adapter_in_the_folder,
        tokenizer_with_code,
        tokenizer_that_is_a_model,
        tokenizer_that_is_a_function,
        template_that_is_saved_elsewhere,
    ],
    ids=lambda craft: craft.__name__,
)
def test_a_model_that_needs_more_is_refused(
    craft: Callable[[Path, Bomb], str], model: Path, check: Callable[..., Result], bomb: Bomb, no_weights: None
) -> None:
    expected = craft(model, bomb)
    refused(check(), expected)


ATTACKS = {
    "globals of a helper": "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr": "{{ (''|attr('__class__')|attr('__mro__'))[1] }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "format by map": "{% set f = ['{0.__class__}']|map('format', messages)|list %}{{ f[0] }}{{ f.__class__.__base__ }}",
    "format by attr": "{{ ('{0.__class__.__init__.__globals__}'|attr('format'))(messages) }}",
    "method of the namespace": "{% set n = namespace() %}{{ n.__init__.__globals__ }}",
    "raise_exception": "{{ raise_exception.__globals__['jinja2'].Environment }}",
    "strftime_now": "{{ strftime_now.__globals__['datetime'].__class__ }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'CANARY' as x %}",
    "changed messages": "{{ messages.append(1) }}",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_chat_template_cannot_leave_its_sandbox(attack: str, tiny_model: Path, canary: Path, tmp_path: Path) -> None:
    """The template is once the model's own, and once a file that the recipe names."""
    answer = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"
    template = attack.replace("CANARY", str(canary)) + answer
    (tmp_path / "template.jinja").write_text(template)
    tokenizer = load_tokenizer(ModelSection(name="tiny"), str(tiny_model))
    section = DataSection(source="x.csv", chat_template=str(tmp_path / "template.jinja"))
    row = DataRow((Turn("user", "q"), Turn("assistant", "a")))
    with pytest.raises(UserError, match=r"template.jinja: the template refuses the turns \(.+\)"):
        Encoder(tokenizer, section).example(row)
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=r"model: its chat template refuses the turns \(.+\)"):
        Encoder(tokenizer, DataSection(source="x.csv")).example(row)


def test_code_that_the_recipe_allows_is_run_and_the_table_says_so(
    model: Path, check: Callable[..., Result], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    code = OWN_CODE.format(canary=str(tmp_path / "allowed"))
    (model / "own.py").write_text(code)
    change(model / "config.json", model_type="own", auto_map=OWN_CLASSES)
    allowed = ("--set", "model.trust_remote_code=true", "--jobs", "0")
    done = check("run", *allowed, "--out", tmp_path / "out", steps="1")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "allowed").exists()
    said = "code that comes with the base model was allowed to run (trust_remote_code)"
    assert said in " ".join(done.stdout.split())
    result = json.loads((tmp_path / "out/ia3/seed-0/result.json").read_text())
    assert result["recipe"]["model"]["trust_remote_code"] is True
    assert "trust_remote_code" in adapterzoo("compare", tmp_path / "out", "--format", "html").stdout
    # A folder of results is not the user's recipe: it may come from a stranger.
    for command in (("generate", "--prompt", "go"), ("merge", "--to", str(tmp_path / "merged"))):
        done = adapterzoo(command[0], tmp_path / "out", "-m", "ia3", *command[1:])
        refused(done, "recipe.yaml: says that the code that comes with the model", "give --trust-remote-code")
    asked = ("--prompt", "go", "--max-new-tokens", "1", "--trust-remote-code")
    assert adapterzoo("generate", tmp_path / "out", "-m", "ia3", *asked).exit_code == 0


def test_transformers_never_asks_whether_to_run_code(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    """Where no answer is passed on, transformers would take one from the lines that are piped into the command."""
    from transformers.dynamic_module_utils import resolve_trust_remote_code

    load_tokenizer(ModelSection(name="tiny"), str(tiny_model))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(ValueError, match="custom code"):
        resolve_trust_remote_code(None, "stranger/model", has_local_code=False, has_remote_code=True)
