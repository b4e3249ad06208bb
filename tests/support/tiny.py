"""The tiny model, data and recipe that most tests use, and the seven methods of the quickstart."""

from __future__ import annotations

from pathlib import Path

METHODS = ("lora", "qlora", "ia3", "loha", "lokr", "adalora", "oft")

RECIPE = """\
name: tiny
model:
  name: {model}
  dtype: float32
data:
  source: {data}
  columns: {{question: verb, answer: past}}
  split: {{train: 0.6, validation: 0.2, test: 0.2}}
  max_length: 64
train:
  steps: 6
  batch_size: 4
evaluate:
  batch_size: 8
  max_new_tokens: 4
  shots: 2
methods: [{methods}]
"""

# As in the bundled model, the tokenizer's padding token is its end token.
TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)

VERBS = (
    "walk", "bake", "stop", "carry", "panic", "play", "rest", "ask", "jump", "talk", "climb", "paint", "move",
    "love", "hope", "like", "hate", "vote", "wave", "save", "plan", "chat", "clap", "drop", "grab", "hug",
    "jog", "nod", "beg", "rob", "try", "cry", "fry", "dry", "copy", "marry", "study", "hurry", "worry", "tidy",
)  # fmt: skip


def past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if verb.endswith("y") and verb[-2] not in "aeiou" else verb + "ed"


def make_data(path: Path) -> Path:
    """Write the verbs and their past forms as CSV; return the path."""
    path.write_text("verb,past\n" + "".join(f"{verb},{past(verb)}\n" for verb in VERBS), encoding="utf-8")
    return path


def make_model(folder: Path) -> Path:
    """Write a two-layer Llama with a tokenizer of bytes into a folder; return the folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    specials = ["<|unk|>", "<|start|>", "<|end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*specials, *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<|unk|>", bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    # transformers sets the padding token's embedding to zero; here it is also the end token, which must be learnable.
    torch.nn.init.normal_(model.get_input_embeddings().weight.data[2], std=0.1)
    model.save_pretrained(folder)
    return folder
