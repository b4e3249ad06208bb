"""Small tokenizers that behave like those of four model families, with their published chat templates.

The templates differ from the published ones only in line breaks.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    + ALTERNATE
    + "{% set role = 'model' if message['role'] == 'assistant' else 'user' %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
# As in Qwen3's template, only the last answer gets a block for thoughts.
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Name -> template, special tokens, the token that ends a turn, and whether spaces are part of words (sentencepiece).
FAMILIES: dict[str, tuple[str, tuple[str, ...], str, bool]] = {
    "chatml": (CHATML, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", False),
    "llama3": (
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        "<|eot_id|>",
        False,
    ),
    "gemma": (GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", True),
    "mistral": (MISTRAL, ("<s>", "</s>"), "</s>", True),
}
TEXT = (
    "the cat sat on the mat and the dog ran in the rain with an answer to the question \n\n of the user and the "
    "assistant: yes, no; 12 345 ... What is the capital of France? Paris.\n\nThe end.\n 你好 世界 مرحبا 🙂 "
) * 3


@cache
def tokenizer(family: str, *, adds_bos: bool = True) -> Any:
    """Return a tokenizer of the family; like the real ones, it puts the bos token in front of every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    template, specials, end, words = FAMILIES[family]
    backend = Tokenizer(models.BPE())
    alphabet = [] if words else pre_tokenizers.ByteLevel.alphabet()
    if words:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        replace = decoders.Replace("▁", " ")
        backend.decoder = decoders.Sequence(
            [replace, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    if words:  # add one token for each byte, for texts that no other tokens can write
        trained = json.loads(backend.to_str())["model"]
        vocabulary = {
            token: n for n, token in enumerate([*trained["vocab"], "<unk>", *(f"<0x{b:02X}>" for b in range(256))])
        }
        merges = [tuple(pair) for pair in trained["merges"]]
        backend.model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    names = {"bos_token": specials[0], "eos_token": "</s>" if family == "mistral" else end}
    if family == "gemma":
        names["eos_token"] = "<eos>"
    if family == "chatml":
        del names["bos_token"]
    backend.add_special_tokens(list(specials))
    if adds_bos and "bos_token" in names:
        bos = (specials[0], backend.token_to_id(specials[0]))
        backend.post_processor = TemplateProcessing(single=f"{specials[0]} $A", special_tokens=[bos])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, **names, extra_special_tokens=list(specials), clean_up_tokenization_spaces=False
    )
    fast.chat_template = template
    return fast
