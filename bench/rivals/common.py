"""Code that the rival scripts share: the same rows, the same adapters, the same measurement before and after."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

EVALUATION_BATCH = 32
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def arguments() -> argparse.Namespace:
    """Read the arguments of the command line, and the job that they name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("job", type=Path, help="the JSON file that bench.py wrote: model, rows, steps, rates")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tuned", action="store_true")
    given = parser.parse_args()
    given.job = json.loads(given.job.read_text(encoding="utf-8"))
    return given


def load(job: dict[str, Any], method: str) -> tuple[Any, Any]:
    """Load the model, quantized to nf4 for qlora, and its tokenizer."""
    settings: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": {"": DEVICE}}
    if method == "qlora" or job["quantization"] == "nf4":
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = AutoModelForCausalLM.from_pretrained(job["model"], **settings)
    # Without this, measuring the untouched base would repack its weights in place, and give training wrong gradients.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model, AutoTokenizer.from_pretrained(job["model"])


def peft_config(method: str, steps: int) -> Any:
    """Return PEFT's configuration of a method, with adapterzoo's defaults."""
    import peft

    shared = {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}
    if method in ("lora", "qlora"):
        return peft.LoraConfig(r=8, lora_alpha=32, **shared)
    if method == "ia3":
        names = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
        return peft.IA3Config(task_type="CAUSAL_LM", **names)
    if method == "loha":
        return peft.LoHaConfig(r=4, alpha=16, **shared)
    if method == "lokr":
        return peft.LoKrConfig(r=32, alpha=64, decompose_factor=4, **shared)
    if method == "adalora":
        return peft.AdaLoraConfig(init_r=12, target_r=8, lora_alpha=32, total_step=steps, **shared)
    return peft.OFTConfig(oft_block_size=32, use_cayley_neumann=True, **shared)


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """Return the system message and the question as a chat."""
    system = [{"role": "system", "content": row["system"]}] if row["system"] else []
    return [*system, {"role": "user", "content": row["question"]}]


def encode(job: dict[str, Any], tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the token ids of the prompt and of the answer."""
    prompt = f"{row['question']}\n"
    if not job["plain"]:
        prompt = tokenizer.apply_chat_template(messages(row), tokenize=False, add_generation_prompt=True)
    answer = [*tokenizer(row["answer"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return tokenizer(prompt, add_special_tokens=False)["input_ids"], answer


class Count:
    """Counts the positions of all batches, and the real tokens among them."""

    def __init__(self) -> None:
        self.positions = self.tokens = 0

    def __call__(self, mask: torch.Tensor) -> None:
        """Add a batch, given its attention mask."""
        self.positions += mask.numel()
        self.tokens += int(mask.sum())


def write_result(out: Path, before: dict[str, float], after: dict[str, float], seconds: float, count: Count) -> None:
    """Write the file that bench.py reads: scores, seconds of training, positions and tokens."""
    trained = {"train_seconds": seconds, "positions": count.positions, "tokens": count.tokens}
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps({"before": before, "after": after, **trained}), encoding="utf-8")


def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    """Return the rows as one tensor, padded on the left."""
    width = max(map(len, rows))
    return torch.tensor([[fill] * (width - len(row)) + row for row in rows], device=DEVICE)


@torch.no_grad()
def evaluate(job: dict[str, Any], model: Any, tokenizer: Any) -> dict[str, float]:
    """Measure the loss per answer token, and the share of greedy answers that are exactly right."""
    model.eval()
    encoded = sorted((encode(job, tokenizer, row) for row in job["test"]), key=lambda pair: len(pair[0]))
    longest = max(len(answer) for _, answer in encoded)
    loss, tokens, right = 0.0, 0, 0
    for start in range(0, len(encoded), EVALUATION_BATCH):
        group = encoded[start : start + EVALUATION_BATCH]
        ids = padded([prompt + answer for prompt, answer in group], 0)
        labels = padded([[-100] * len(prompt) + answer for prompt, answer in group], -100)
        mask = padded([[1] * (len(prompt) + len(answer)) for prompt, answer in group], 0)
        kept = max(len(answer) for _, answer in group) + 1
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=kept).logits[:, :-1].float()
        targets = labels[:, -kept:][:, 1:]
        loss += torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="sum"
        ).item()
        tokens += int((targets != -100).sum())
        prompts = padded([prompt for prompt, _ in group], 0)
        asked = padded([[1] * len(prompt) for prompt, _ in group], 0)
        answers = model.generate(
            input_ids=prompts, attention_mask=asked, max_new_tokens=longest, do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        for generated, (_, answer) in zip(answers[:, prompts.shape[1] :].tolist(), group, strict=True):
            right += generated[: len(answer)] == answer
    return {"loss": loss / tokens, "exact_match": right / len(encoded)}
