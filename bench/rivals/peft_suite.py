"""Train one method in the way of PEFT's own comparison: a handwritten loop, with rows of similar length together."""

from __future__ import annotations

import random
import time

import torch
from common import Count, arguments, encode, evaluate, load, padded, peft_config, write_result
from peft import get_peft_model
from transformers import get_linear_schedule_with_warmup

BATCHES_PER_BUCKET = 4  # number of batches whose rows are sorted by length together

given = arguments()
job, method = given.job, given.method
torch.manual_seed(0)
model, tokenizer = load(job, method)
before = evaluate(job, model, tokenizer)
model = get_peft_model(model, peft_config(method, job["steps"]))
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=job["rates"][method])
schedule = get_linear_schedule_with_warmup(optimizer, job["warmup"], job["steps"])
rows = [encode(job, tokenizer, row) for row in job["train"]]
draw, size, step, count, begun = random.Random(0), job["batch_size"], 0, Count(), time.monotonic()
while step < job["steps"]:
    draw.shuffle(rows)
    for start in range(0, len(rows) - size * BATCHES_PER_BUCKET + 1, size * BATCHES_PER_BUCKET):
        bucket = sorted(rows[start : start + size * BATCHES_PER_BUCKET], key=lambda pair: len(pair[0]) + len(pair[1]))
        for first in range(0, len(bucket), size):
            if step == job["steps"]:
                break
            group = bucket[first : first + size]
            model.train()
            mask = padded([[1] * (len(prompt) + len(answer)) for prompt, answer in group], 0)
            count(mask)
            loss = model(
                input_ids=padded([prompt + answer for prompt, answer in group], 0),
                labels=padded([[-100] * len(prompt) + answer for prompt, answer in group], -100),
                attention_mask=mask,
            ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if method == "adalora":
                model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
            step += 1
seconds = time.monotonic() - begun
after = evaluate(job, model, tokenizer)
model.save_pretrained(given.out / "adapter")
write_result(given.out, before, after, seconds, count)
