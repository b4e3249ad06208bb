"""Check the output folder: what is written and read back, and which folders are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapterzoo import compare
from adapterzoo.errors import UserError
from adapterzoo.results.identity import identity_hash, recipe_identity
from adapterzoo.results.reading import read_results
from adapterzoo.results.result import RESULT, Result
from adapterzoo.results.store import Store
from adapterzoo.results.suitable import check_recipe


def result(label: str, seed: int = 0, **changes: object) -> Result:
    settings = {
        "method": label,
        "seed": seed,
        "quantization": "none",
        "metrics": {"test_loss": 1.0, "exact_match": 0.5},
    }
    return Result(label=label, **{**settings, **changes})  # type: ignore[arg-type]


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    given = result("a", options={"r": 8}, error=None, findings={"ranks": {"x": 1}})
    written = store.write(given, [{"prompt": "中"}])
    assert [*written.record_digests] == ["predictions.jsonl"]
    assert store.results_of("a") == ([(tmp_path / "a" / "seed-0", written)], {})
    assert read_results(tmp_path).cells == [(tmp_path / "a" / "seed-0", written)]
    assert json.loads((tmp_path / "a" / "seed-0" / "predictions.jsonl").read_text()) == {"prompt": "中"}
    assert not list(tmp_path.rglob(".*")), "no temporary file is left"


def test_checkpoints_are_only_kept_for_the_same_settings(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def kept(settings: dict[str, object]) -> bool:
        return (store.clear("a", 0, settings) / "checkpoints" / "checkpoint-2").is_dir()

    assert not kept({"r": 8})
    (tmp_path / "a" / "seed-0" / "checkpoints" / "checkpoint-2").mkdir()
    assert kept({"r": 8})
    assert not kept({"r": 4})
    store.write(result("a"))
    assert not (tmp_path / "a" / "seed-0" / "checkpoints").exists()


def test_damaged_and_newer_results_are_refused(tmp_path: Path) -> None:
    Store(tmp_path).write(result("a"))
    path = tmp_path / "a" / "seed-0" / RESULT
    newer = json.loads(path.read_text())
    assert newer.pop("digest"), "and a digest that shows whether all other keys are as they were written"
    for content in (b"{", b"\xff\xfe", b"[]"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged: it is not a result in JSON"):
            read_results(tmp_path)
    path.write_text(json.dumps({**newer, "metrics": {}}))
    assert read_results(tmp_path).cells[0][1].error == "seed-0/result.json holds no metrics"
    path.write_text(json.dumps({**newer, "schema": 99}))
    with pytest.raises(UserError, match="newer adapterzoo"):
        read_results(tmp_path)
    path.write_text(json.dumps({**newer, "of_a_later_minor_version": 1}))
    assert read_results(tmp_path).cells[0][1].label == "a"


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no results"):
        compare(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        compare(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        compare(tmp_path / "file")


def test_rows_are_means_over_seeds_and_the_best_comes_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed, match in ((0, 0.4), (1, 0.6)):
        store.write(result("a", seed, metrics={"exact_match": match}))
        store.write(result("b", seed, metrics={"exact_match": match + 0.2}))
    store.write(result("c", 0, metrics={"exact_match": 0.9}))
    store.write(result("c", 1, status="failed", error="boom", metrics={}))
    rows = compare(tmp_path).rows
    assert [row.label for row in rows] == ["c", "b", "a"]
    assert rows[2].metrics["exact_match"] == pytest.approx(0.5)
    assert rows[2].seeds == [0, 1]
    assert rows[0].status == "failed"
    assert rows[0].error == "seed 1: boom"
    assert [row.label for row in compare(tmp_path, sort="label").rows] == ["a", "b", "c"]
    with pytest.raises(UserError, match="Did you mean 'exact_match'"):
        compare(tmp_path, sort="exact_macth")


def test_all_seeds_of_a_label_must_have_the_same_settings(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(result("a", 0, options={"r": 4}))
    store.write(result("a", 1, options={"r": 32}, status="failed", error="of old", metrics={}))
    assert compare(tmp_path).rows[0].error == "seed 1: of old"
    store.write(result("a", 1, options={"r": 32}))
    with pytest.raises(UserError, match="options is"):
        compare(tmp_path)


def test_damaged_files_give_no_traceback(tmp_path: Path) -> None:
    Store(tmp_path).write(result("a"))
    path = tmp_path / "a" / "seed-0" / RESULT
    good = json.loads(path.read_text())
    for change in (
        {"metrics": None},
        {"learning_rate": "fast"},
        {"quantization": ["a"]},
        {"metrics": {"test_loss": "low"}},
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(UserError, match="is damaged"):
            compare(tmp_path)
    (tmp_path / "out").mkdir()
    for content in ("{", "{}", "[]"):
        (tmp_path / "out" / ".adapterzoo.json").write_text(content)
        with pytest.raises(UserError, match="is damaged"):
            check_recipe(tmp_path / "out", {})
    below = Store(path / "below-a-file")
    check_recipe(below.folder, {})
    with pytest.raises(UserError, match="cannot be written"):
        below.begin({}, {})


def test_the_comparison_is_a_table_and_a_frame(tmp_path: Path) -> None:
    Store(tmp_path).write(result("a"))
    found = compare(tmp_path)
    assert "match" in str(found)
    assert found.frame().loc["a", "exact_match"] == 0.5
    assert "<table" in found._repr_html_()


def test_keys_that_change_no_result_may_change_also_in_a_folder_of_an_old_version(tmp_path: Path) -> None:
    """Old versions kept them in the identity, and wrote no digest."""
    old = {"model": "m", "train": {"steps": 1, "save_limit": 1}}
    note = {"recipe_hash": identity_hash(old), "identity": old, "threads": 3}
    (tmp_path / ".adapterzoo.json").write_text(json.dumps(note))
    store = Store(tmp_path)
    assert check_recipe(store.folder, {"model": "m", "train": {"steps": 1}}) is None
    assert store.threads() == 3
    with pytest.raises(UserError, match=r"another recipe \(train\.steps: 1 there, 2 here\)"):
        check_recipe(store.folder, {"model": "m", "train": {"steps": 2}})
    recipe = {"evaluate": {}, "model": {}, "data": {}, "train": {"steps": 1, "save_limit": 5, "time_limit": 60.0}}
    assert recipe_identity(recipe, "rows", None)["train"] == {"steps": 1}


def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "out"), Store(tmp_path / "out")
    first.begin({"name": "x"}, {"model": "m"})
    check_recipe(second.folder, {"model": "m"})
    with pytest.raises(UserError, match="another run is writing there"):
        second.begin({"name": "x"}, {"model": "m"})
    first.release()
    second.begin({"name": "x"}, {"model": "m"})
