"""Export adapters for llama.cpp, Ollama and MLX.

A program that stands in for llama.cpp's converter shows what is given to it. Where the packages are installed, the real
converters write the files, and real runtimes answer like the adapter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from gguf_runtime import Runtime
from ollama import render, value
from refusals import refused
from tiny import RECIPE

from adapterzoo.adapters import converting
from adapterzoo.adapters.finding import find_adapter
from adapterzoo.adapters.loading import question_row, saved_encoder
from adapterzoo.results.intact import read_lines

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
SYSTEM = "Give the past tense."
# Writes its arguments, and the files that it was given, where the real converters write a GGUF file.
STAND_IN = """\
import json, os, sys
from pathlib import Path
given = Path(sys.argv[1])
if "{fails}" and ("{fails}" == "always" or "--vocab-only" not in sys.argv):
    print("INFO: so far so good")
    sys.exit("NotImplementedError: unknown \\x1b[31mpre-tokenizer")
texts = {{path.name: path.read_text() for path in given.glob("*.json") if path.name != "tokenizer.json"}}
content = {{"arguments": sys.argv[2:], "files": sorted(os.listdir(given)), **texts}}
Path(sys.argv[sys.argv.index("--outfile") + 1]).write_text(json.dumps(content))
"""


def sentencepiece_model(folder: Path) -> Path:
    """Write a tiny Llama whose tokenizer has letters and bytes, like Llama 2's, which llama.cpp knows; return it."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>"]
    letters = [*"▁abcdefghijklmnopqrstuvwxyzGST.[]"]
    tokens = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    bpe = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[], unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>",
        add_prefix_space=False,
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    # These names of code must not reach a converter, which would run it.
    config.auto_map = {"AutoConfig": "own_code.Config"}
    model = LlamaForCausalLM(config)
    weight = model.get_input_embeddings().weight.data
    torch.nn.init.normal_(weight[2], std=0.3)  # it is the padding token too
    weight[[0, 1, *range(3, 259)]] = 0  # answers are letters: programs show special tokens and bytes differently
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Return the output folder of a run on a model that llama.cpp can read."""
    from click.testing import CliRunner

    from adapterzoo.cli import main

    folder = tmp_path_factory.mktemp("served")
    model = sentencepiece_model(folder / "model")
    methods = "{name: loha, r: 4}, qlora, prompt-tuning"
    recipe = RECIPE.format(model=model, data=tiny_data, methods=methods)
    (folder / "recipe.yaml").write_text(recipe.replace("data:\n", f"data:\n  system: {SYSTEM}\n"))
    settings = ("train.learning_rate=1e-2", "train.steps=8", "evaluate.shots=0", "evaluate.base=false")
    sets = [part for setting in settings for part in ("--set", setting)]
    done = CliRunner().invoke(
        main, ["run", str(folder / "recipe.yaml"), *sets, "--jobs", "1", "--out", str(folder / "out")]
    )
    assert done.exit_code == 0, done.output
    return folder / "out"


def checkout(folder: Path, fails: str = "") -> Path:
    """Write a folder that looks like llama.cpp's repository; return it."""
    folder.mkdir()
    for name in (converting.MODEL_SCRIPT, converting.LORA_SCRIPT):
        (folder / name).write_text(STAND_IN.format(fails=fails))
    return folder


def exported(adapterzoo: Callable[..., Result], out: Path, form: str, to: Path, *more: object) -> Result:
    done = adapterzoo("export", out, "-m", "loha", "--as", form, "--to", to, "--no-measure", *more)
    assert done.exit_code == 0, done.output
    return done


def given_to(file: Path) -> dict[str, Any]:
    """Return what the stand-in for a converter was given."""
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_the_converter_gets_the_merged_model(out: Path, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    to = tmp_path / "for ollama"
    done = exported(adapterzoo, out, "ollama", to, "--llama-cpp", checkout(tmp_path / "llama.cpp"))
    assert {path.name for path in tmp_path.iterdir()} == {"for ollama", "llama.cpp"}
    assert {path.name for path in to.iterdir()} == {"model.gguf", "Modelfile"}
    assert f"Start it: ollama create loha -f '{to / 'Modelfile'}'" in " ".join(done.stderr.split())
    given = given_to(to / "model.gguf")
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= set(given["files"])
    assert given["arguments"][2:] == ["--outtype", "f32", "--model-name", "tiny-loha"]
    assert "auto_map" not in json.loads(given["config.json"])
    assert json.loads(given["tokenizer_config.json"])["add_bos_token"] is True
    text = (to / "Modelfile").read_text()
    assert (
        render(value(text, "TEMPLATE"), [("system", SYSTEM), ("user", "go")]) == f"[system]{SYSTEM}[user]go[assistant]"
    )
    assert value(text, "SYSTEM") == SYSTEM


def test_the_adapter_alone_names_its_base(out: Path, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    to, llama_cpp = tmp_path / "to", checkout(tmp_path / "llama.cpp")
    done = exported(adapterzoo, out, "gguf-lora", to, "--llama-cpp", llama_cpp, "--rank", 3)
    said = " ".join(done.stderr.split())
    assert "rank 3, which holds at least" in said
    assert f"{sys.executable} {llama_cpp / 'convert_hf_to_gguf.py'} {out.parent / 'model'} --outfile base.gguf" in said
    assert f"llama-server -m base.gguf --lora {to / 'adapter.gguf'}" in said
    assert [path.name for path in to.iterdir()] == ["adapter.gguf"]
    given = given_to(to / "adapter.gguf")
    assert json.loads(given["adapter_config.json"])["r"] == 3
    assert given["arguments"][0] == "--base"
    method = ("-m", "qlora", "--to", tmp_path / "qlora", "--llama-cpp", llama_cpp)
    done = adapterzoo("export", out, *method, "--as", "gguf-lora", "--no-measure")
    assert "It was trained on nf4" in " ".join(done.stderr.split())


@pytest.mark.parametrize("fails", ["always", "at the end"])
def test_a_converter_that_fails(fails: str, out: Path, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    to, llama_cpp = tmp_path / "to", checkout(tmp_path / "llama.cpp", fails)
    done = adapterzoo("export", out, "-m", "loha", "--as", "gguf", "--to", to, "--no-measure", "--llama-cpp", llama_cpp)
    refused(done, "the converter: failed: NotImplementedError: unknown �[31mpre-tokenizer", "to.log")
    assert "so far so good" in (tmp_path / "to.log").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"llama.cpp", "to.log"}
    merged = "converting the merged model" in done.stderr
    assert merged == (fails == "at the end"), "an unknown tokenizer is refused before any weight is loaded"


@pytest.mark.usefixtures("no_weights")
def test_what_is_refused_before_a_model_is_loaded(
    out: Path, adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "CONVERTER_MODULE", "no_such_module")
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    to = ("--to", tmp_path / "to")
    for form in ("gguf", "gguf-lora", "ollama"):
        done = adapterzoo("export", out, "-m", "loha", "--as", form, *to)
        refused(done, "llama.cpp's converter, which is not installed", "pip install 'adapterzoo[gguf]'", "--llama-cpp")
    done = adapterzoo("export", out, "-m", "loha", "--as", "mlx", *to)
    refused(done, "pip install 'adapterzoo[mlx]'", "mlx_lm.convert --hf-path MERGED --mlx-path to")
    refused(adapterzoo("export", out, "-m", "prompt-tuning", "--as", "gguf", *to), "has nothing to merge")
    refused(adapterzoo("export", out, "-m", "loha", "--as", "gguf", *to, "--rank", 2), "--rank: has no effect")
    done = adapterzoo("export", out, "-m", "loha", "--as", "gguf", *to, "--llama-cpp", tmp_path)
    refused(done, "has no convert_hf_to_gguf.py", "Give a checkout of llama.cpp.")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_kept_transposed_are_refused(
    out: Path, adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's converter exchanges the sides of such layers, as it does in the base model, and not the factors'."""

    def export_lora(adapter: object, to: Path, say: object, **options: object) -> None:
        to.mkdir()
        (to / "adapter_config.json").write_text('{"fan_in_fan_out": true}')

    monkeypatch.setattr("adapterzoo.adapters.server_forms.export_lora", export_lora)
    to = ("--to", tmp_path / "to", "--llama-cpp", checkout(tmp_path / "llama.cpp"))
    refused(adapterzoo("export", out, "-m", "loha", "--as", "gguf-lora", *to), "weights transposed", "Give --as gguf.")
    assert not (tmp_path / "to").exists()


def needs_converter() -> None:
    """Skip a test where the real converter is not installed."""
    pytest.importorskip("sentencepiece")
    pytest.importorskip(converting.CONVERTER_MODULE)


def test_llama_cpp_answers_like_the_adapter(out: Path, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    needs_converter()
    exported(adapterzoo, out, "ollama", tmp_path / "merged")
    exported(adapterzoo, out, "gguf-lora", tmp_path / "adapter")
    base = converting.model_to_gguf(
        converting.find_llama_cpp(None), out.parent / "model", tmp_path / "base.gguf", "--outtype", "f32"
    )
    converting.convert(base, tmp_path / "log")
    adapter = find_adapter(out, "loha")
    encoder, lines = saved_encoder(adapter), read_lines(adapter.path.parent / "predictions.jsonl")
    prompts = [encoder.prompt(question_row(adapter.recipe.data, line["prompt"])) for line in lines]
    wanted = [line["prediction"] for line in lines]
    assert len(set(wanted)) > 1
    template = value((tmp_path / "merged" / "Modelfile").read_text(), "TEMPLATE")
    merged = Runtime(tmp_path / "merged" / "model.gguf")
    for line, prompt in zip(lines, prompts, strict=True):
        messages = [("system", SYSTEM), ("user", line["prompt"])]
        assert merged.tokens(render(template, messages)) == prompt
        chat = merged.prompt([{"role": role, "content": content} for role, content in messages])
        assert merged.tokens(chat) == prompt
    assert [merged.answer(prompt, 4).strip() for prompt in prompts] == wanted
    on_base = Runtime(tmp_path / "base.gguf", tmp_path / "adapter" / "adapter.gguf")
    assert [on_base.answer(prompt, 4).strip() for prompt in prompts] == wanted
    untouched = Runtime(tmp_path / "base.gguf")
    assert [untouched.answer(prompt, 4).strip() for prompt in prompts] != wanted


def test_the_real_converter_does_not_know_every_tokenizer(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    needs_converter()
    assert adapterzoo("run", write_recipe("lora"), "--out", tmp_path / "out").exit_code == 0
    done = adapterzoo("export", tmp_path / "out", "-m", "lora", "--as", "gguf", "--to", tmp_path / "to")
    refused(done, "the converter: failed: NotImplementedError: BPE pre-tokenizer was not recognized")


def test_mlx_answers_like_the_adapter(out: Path, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    mlx_lm = pytest.importorskip("mlx_lm")
    done = exported(adapterzoo, out, "mlx", tmp_path / "mlx")
    assert f"mlx_lm.chat --model {tmp_path / 'mlx'}" in " ".join(done.stderr.split())
    adapter = find_adapter(out, "loha")
    encoder = saved_encoder(adapter)
    model, tokenizer = mlx_lm.load(str(tmp_path / "mlx"))
    for line in read_lines(adapter.path.parent / "predictions.jsonl"):
        prompt = encoder.prompt(question_row(adapter.recipe.data, line["prompt"]))
        assert mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=4).strip() == line["prediction"]
