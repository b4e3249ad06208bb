"""Read scores out of what lm-eval returns; lm-eval itself is not needed for that."""

from __future__ import annotations

from typing import Any

from adapterzoo.adapters.benchmark_scores import benchmark_scores


def sample(doc_id: int, answers: str = "none", **scores: Any) -> dict[str, Any]:
    return {
        "doc_id": doc_id, "doc_hash": f"hash-{doc_id}", "target": doc_id % 2, "filter": answers, "metrics": [*scores],
        "arguments": [("Q", " a"), ("Q", " b")], "resps": [[(-2.0, False)], [(-1.0, True)]], **scores,
    }  # fmt: skip


def output(samples: dict[str, list[dict[str, Any]]], results: dict[str, dict[str, Any]], **better: bool) -> Any:
    return {"samples": samples, "results": results, "higher_is_better": dict.fromkeys(samples, better)}


def test_means_have_a_score_for_each_example_and_other_metrics_have_none() -> None:
    samples = [sample(1, acc=0.0, loss=2.5, f1=(1, 0)), sample(0, acc=1.0, loss=0.5, f1=(0, 0))]
    results = {"t": {"name": "t", "f1,none": 0.75, "acc,none": 0.5, "acc_stderr,none": "N/A", "loss,none": 1.5}}
    scores = benchmark_scores("t", output({"t": samples}, results, acc=True, loss=False, f1=True))
    # Those with a score for each example come first, because rows are ranked by the first.
    assert [*scores.metrics.items()] == [("t acc", 0.5), ("t loss", 1.5), ("t f1", 0.75)]
    assert (scores.joint, scores.lower_is_better) == (["t f1"], ["t loss"])
    first, second = scores.records
    assert (first["index"], first["doc_id"], first["t acc"], first["t loss"]) == (0, 0, True, 0.5)
    assert second["t acc"] is False
    assert (first["prompt"], first["prediction"]) == ("Q", " b")
    assert "t f1" not in first


def test_filters_are_metrics_of_their_own_and_a_mean_that_does_not_agree_is_no_score() -> None:
    samples = [sample(doc, answers, exact_match=float(doc > 0)) for answers in ("strict", "loose") for doc in range(4)]
    results = {"t": {"exact_match,strict": 0.75, "exact_match,loose": 0.9}}
    scores = benchmark_scores("t", output({"t": samples}, results))
    assert scores.metrics == {"t exact_match strict": 0.75, "t exact_match loose": 0.9}
    assert scores.joint == ["t exact_match loose"]
    assert len(scores.records) == 4


def test_tasks_of_one_name_are_joined() -> None:
    samples = {"b": [sample(0, acc=1.0)], "a": [sample(0, acc=0.0, f1=1.0), sample(1, acc=1.0, f1=1.0)]}
    of_tasks = {"b": {"acc,none": 1.0}, "a": {"acc,none": 0.5, "f1,none": 1.0}}
    scores = benchmark_scores("both", output(samples, of_tasks))
    assert scores.metrics == {"both acc": 2 / 3}
    assert [(record["task"], record["doc_id"]) for record in scores.records] == [("b", 0), ("a", 0), ("a", 1)]
    # A group of lm-eval may weight its tasks equally. Its number is then no mean over the examples.
    weighted = benchmark_scores("both", output(samples, {**of_tasks, "both": {"acc,none": 0.75}}))
    assert (weighted.metrics, weighted.joint) == ({"both acc": 0.75}, ["both acc"])
