"""Write spelling_t5, a small T5 that spells words, from the words of movie_reviews.csv.

    python recipes/data/make_spelling_t5.py

No small encoder-decoder model comes in a package, so this script trains one: it reads a word letter by letter, and
writes the same word. It has 2 million parameters and takes a few minutes on one core. Words of past_tense.csv are left
out, because past_tense_t5.yaml teaches it the past tense of these verbs.
"""

from __future__ import annotations

import csv
import random
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

FOLDER = Path(__file__).parent
STEPS = 1000
ROWS = 64  # words in a step
RATE = 2e-3
SPECIAL = ("<pad>", "</s>", "<unk>")
END = 1


def main() -> None:
    """Train the model and save it with its tokenizer."""
    torch.manual_seed(0)
    tokenizer = letters()
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer), d_model=160, d_kv=40, num_heads=4, d_ff=512, num_layers=3, num_decoder_layers=3,
            dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=END,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    draw, known = random.Random(0), words()
    for step in range(1, STEPS + 1):
        batch = tokenizer(draw.sample(known, ROWS), padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 500 == 0:
            print(f"step {step} of {STEPS}: loss {loss.item():.4f}", flush=True)
    model.save_pretrained(FOLDER / "spelling_t5")
    tokenizer.save_pretrained(FOLDER / "spelling_t5")


def words() -> list[str]:
    """Return the words of the reviews in small letters, each once, without the verbs and their past tenses."""
    with (FOLDER / "movie_reviews.csv").open(encoding="utf-8", newline="") as file:
        found = {word for row in csv.DictReader(file) for word in re.findall(r"[a-z]{3,}", row["sentence"].lower())}
    with (FOLDER / "past_tense.csv").open(encoding="utf-8", newline="") as file:
        verbs = {row[column] for row in csv.DictReader(file) for column in ("verb", "past")}
    return sorted(found - verbs)


def letters() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes, which puts an end token behind each text as T5's own does."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


if __name__ == "__main__":
    main()
