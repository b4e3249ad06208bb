"""Train one method with TRL's SFTTrainer, as people write it: with its defaults, or tuned by an experienced user."""

from __future__ import annotations

import time
from typing import Any

from common import DEVICE, Count, arguments, evaluate, load, messages, peft_config, write_result
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

given = arguments()
job, method = given.job, given.method
model, tokenizer = load(job, method)
before = evaluate(job, model, tokenizer)


def example(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in the form that TRL reads."""
    if job["plain"]:
        return {"prompt": f"{row['question']}\n", "completion": row["answer"]}
    return {"prompt": messages(row), "completion": [{"role": "assistant", "content": row["answer"]}]}


# Tuned means no gradient checkpointing, which costs a third more work, and batches of rows of similar length.
tuned = {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"} if given.tuned else {}
trainer = SFTTrainer(
    model=model,
    processing_class=tokenizer,
    args=SFTConfig(
        output_dir=str(given.out),
        max_steps=job["steps"],
        per_device_train_batch_size=job["batch_size"],
        learning_rate=job["rates"][method],
        lr_scheduler_type="linear",
        warmup_steps=job["warmup"],
        max_length=job["max_length"],
        bf16=True,
        use_cpu=DEVICE == "cpu",
        report_to="none",
        save_strategy="no",
        seed=0,
        **tuned,
    ),
    train_dataset=Dataset.from_list([example(row) for row in job["train"]]),
    peft_config=peft_config(method, job["steps"]),
)
count, collate = Count(), trainer.data_collator


def counted(rows: list[Any]) -> dict[str, Any]:
    """Return the batch that TRL makes, and count its tokens."""
    batch: dict[str, Any] = collate(rows)
    count(batch["attention_mask"])
    return batch


trainer.data_collator = counted
begun = time.monotonic()
trainer.train()
seconds = time.monotonic() - begun
after = evaluate(job, trainer.model, tokenizer)
trainer.save_model(str(given.out / "adapter"))
write_result(given.out, before, after, seconds, count)
