"""The script that people write for a method: TRL's SFTTrainer with its defaults, or tuned by somebody who knows."""

from __future__ import annotations

import json

import torch
from common import arguments, evaluate, load, messages, peft_config
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

given = arguments()
job, method = given.job, given.method
model, tokenizer = load(job, method)
before = evaluate(model, tokenizer, job["test"])
# Tuned: no checkpointing, which costs a third more work, and batches of like length.
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
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        seed=0,
        **tuned,
    ),
    train_dataset=Dataset.from_list(
        [
            {"prompt": messages(row), "completion": [{"role": "assistant", "content": row["answer"]}]}
            for row in job["train"]
        ]
    ),
    peft_config=peft_config(method, job["steps"]),
)
trainer.train()
after = evaluate(trainer.model, tokenizer, job["test"])
trainer.save_model(str(given.out / "adapter"))
(given.out / "result.json").write_text(json.dumps({"before": before, "after": after}), encoding="utf-8")
