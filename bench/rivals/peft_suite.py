"""A process for each method in the manner of PEFT's own comparison: a training loop by hand, rows of like length."""

from __future__ import annotations

import json
import random

import torch
from common import arguments, encode, evaluate, load, padded, peft_config
from peft import get_peft_model
from transformers import get_linear_schedule_with_warmup

BUCKET = 4  # batches, out of which rows of like length come together

given = arguments()
job, method = given.job, given.method
torch.manual_seed(0)
model, tokenizer = load(job, method)
before = evaluate(model, tokenizer, job["test"])
model = get_peft_model(model, peft_config(method, job["steps"]))
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=job["rates"][method])
schedule = get_linear_schedule_with_warmup(optimizer, job["warmup"], job["steps"])
rows = [encode(tokenizer, row) for row in job["train"]]
draw, size, step = random.Random(0), job["batch_size"], 0
while step < job["steps"]:
    draw.shuffle(rows)
    for start in range(0, len(rows) - size * BUCKET + 1, size * BUCKET):
        bucket = sorted(rows[start : start + size * BUCKET], key=lambda pair: len(pair[0]) + len(pair[1]))
        for first in range(0, len(bucket), size):
            if step == job["steps"]:
                break
            group = bucket[first : first + size]
            model.train()
            loss = model(
                input_ids=padded([prompt + answer for prompt, answer in group], 0),
                labels=padded([[-100] * len(prompt) + answer for prompt, answer in group], -100),
                attention_mask=padded([[1] * (len(prompt) + len(answer)) for prompt, answer in group], 0),
            ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if method == "adalora":
                model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
            step += 1
after = evaluate(model, tokenizer, job["test"])
model.save_pretrained(given.out / "adapter")
given.out.mkdir(parents=True, exist_ok=True)
(given.out / "result.json").write_text(json.dumps({"before": before, "after": after}), encoding="utf-8")
