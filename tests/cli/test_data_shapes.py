"""Run lora on other kinds of data and with other metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result


@pytest.fixture
def run(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> Callable[..., tuple[Result, list[dict[str, Any]], list[dict[str, Any]]]]:
    """Return a function that runs lora on rows.

    It returns the result of the command, the rows of the comparison and the predictions of lora.
    """

    def run_lora(
        rows: list[dict[str, Any]], *overrides: str
    ) -> tuple[Result, list[dict[str, Any]], list[dict[str, Any]]]:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        sets = ["data.source=rows.jsonl", "data.columns={}", "train.steps=2", "data.max_length=128", *overrides]
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        arguments = [part for override in sets for part in ("--set", override)]
        done = adapterzoo("run", write_recipe("lora"), *arguments, "--out", out)
        if done.exit_code:
            return done, [], []
        compared = json.loads(adapterzoo("compare", out, "--format", "json").stdout)["rows"]
        lines = (out / "lora" / "seed-0" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        return done, compared, [json.loads(line) for line in lines]

    return run_lora


def test_plain_text_is_learned_as_a_whole_and_has_no_answers(run: Callable[..., Any]) -> None:
    data = [{"text": f"Once upon a time there was {n}."} for n in range(40)]
    done, rows, predictions = run(data, "evaluate={batch_size: 4}")
    assert done.exit_code == 0, done.stderr
    assert "plain text has no questions, so no answers are compared" in done.stderr
    assert [row["label"] for row in rows] == ["lora", "base"] or [row["label"] for row in rows] == ["base", "lora"]
    assert set(rows[0]["metrics"]) == {"test_loss", "perplexity"}
    assert predictions[0]["prediction"] is None
    assert predictions[0]["prompt"] == ""
    assert predictions[0]["tokens"] == len(predictions[0]["reference"]), (
        "one token per byte, plus the end token, without the first byte"
    )
    refused, *_ = run([{"text": f"t {n}"} for n in range(40)], "evaluate.metrics=[rouge]", "evaluate.shots=0")
    assert refused.exit_code == 2
    assert "evaluate.metrics: 'rouge' compares answers, and plain text has no answers" in refused.stderr


def test_a_conversation_of_many_turns(run: Callable[..., Any]) -> None:
    turns = [("user", "a{n}"), ("assistant", "b{n}"), ("user", "c{n}"), ("assistant", "d{n}")]
    data = [{"messages": [{"role": r, "content": c.format(n=n)} for r, c in turns]} for n in range(40)]
    done, rows, predictions = run(data, "data.loss_on=assistant", "evaluate.shots=1")
    assert done.exit_code == 0, done.stderr
    by_label = {row["label"]: row for row in rows}
    assert set(by_label["base-1-shot"]["metrics"]) == {"exact_match"}, (
        "the loss with examples in the prompt is over other tokens"
    )
    assert set(by_label["lora"]["metrics"]) == {"exact_match", "test_loss", "perplexity"}
    first = predictions[0]
    n = first["reference"][1:]
    assert first["prompt"] == f"user: a{n}\nassistant: b{n}\nuser: c{n}"
    assert first["tokens"] == 2 * (len(n) + 2)


def test_metrics_are_kept_for_every_test_example(run: Callable[..., Any]) -> None:
    data = [{"question": f"say {n}", "answer": f"the cat number {n} sat"} for n in range(40)]
    names = ["rouge", "bleu", "chrf", "token_accuracy", "loss", "exact_match"]
    done, rows, predictions = run(data, f"evaluate.metrics=[{', '.join(names)}]", "evaluate.max_new_tokens=8")
    assert done.exit_code == 0, done.stderr
    columns = ["rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match", "token_accuracy", "test_loss"]
    assert [list(row["metrics"]) for row in rows] == [columns] * 3
    assert all({"rouge1", "rougeL", "bleu", "chrf", "exact_match"} <= set(line) for line in predictions)
    share = sum(line["right_tokens"] for line in predictions) / sum(line["tokens"] for line in predictions)
    (lora,) = (row for row in rows if row["label"] == "lora")
    assert lora["metrics"]["token_accuracy"] == pytest.approx(share)
    assert lora["metrics"]["rouge1"] == pytest.approx(sum(line["rouge1"] for line in predictions) / len(predictions))
    assert "R-1" in done.stdout
    assert "chrF" in done.stdout
    order = [row["metrics"]["rouge1"] for row in rows]
    assert order == sorted(order, reverse=True), "rows are ordered by the first metric of the recipe"


def test_labels_that_are_only_in_the_test_rows_are_refused(run: Callable[..., Any]) -> None:
    data = [{"question": f"q{n}", "answer": "yes" if n % 2 else "no"} for n in range(60)]
    done, rows, predictions = run(data, "evaluate.metrics=[accuracy, macro_f1]", "evaluate.shots=0")
    assert done.exit_code == 0, done.stderr
    assert set(rows[0]["metrics"]) == {"accuracy", "macro_f1"}
    assert {"accuracy", "macro_f1"} <= set(predictions[0])
    data = [{**row, "answer": f"label {n}"} for n, row in enumerate(data)]
    refused, *_ = run(data, "evaluate.metrics=[accuracy]")
    assert refused.exit_code == 2
    text = " ".join(refused.stderr.split())
    assert "' is in no training row." in text
    assert "rows.jsonl:" in text
    assert "12 labels are only in the test rows: no method can know them." in text


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (("evaluate.metrics=[squad_f1]",), "evaluate.metrics"),
        (("task={name: reinforcement, rewards: [squad_f1]}", "evaluate.metrics=[mean_reward]"), "task.rewards"),
    ],
)
def test_a_line_of_an_answer_does_not_count_as_the_answer(
    settings: tuple[str, ...], key: str, run: Callable[..., Any]
) -> None:
    data = [{"prompt": f"q{n}", "answer": f"Mix {n} eggs.\nBake them."} for n in range(40)]
    if key == "evaluate.metrics":
        data = [{"question": row["prompt"], "answer": row["answer"]} for row in data]
    refused, *_ = run(data, *settings, "evaluate.shots=0", "evaluate.base=false")
    assert refused.exit_code == 2
    text = " ".join(refused.stderr.split())
    assert f"{key}: 'squad_f1' takes each line of an answer for a right answer of its own" in text
    assert "Choose from: exact_match, rouge, bleu, chrf." in text
    assert "rows.jsonl:" in text


def test_unknown_metrics_are_reported(run: Callable[..., Any]) -> None:
    refused, *_ = run([{"question": "q", "answer": "a"}], "evaluate.metrics=[exactmatch, los]")
    assert refused.exit_code == 2
    assert "unknown metric 'exactmatch'. Did you mean 'exact_match'?" in refused.stderr
    assert "unknown metric 'los'. Did you mean 'loss'?" in refused.stderr


def test_a_template_with_loss_on_all(run: Callable[..., Any]) -> None:
    data = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(40)]
    done, _, predictions = run(data, r'data.template="问：{question}\n答：{answer}"', "data.loss_on=all")
    assert done.exit_code == 0, done.stderr
    line = predictions[0]
    assert line["prompt"] == f"问：q{line['reference'][1:]}\n答："
    whole = (line["prompt"] + line["reference"]).encode()
    assert line["tokens"] == len(whole), "one token per byte, plus the end token, without the first byte"
