from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from adapterzoo.comparison import Comparison, compare
from adapterzoo.errors import UserError
from adapterzoo.report import canvas as drawing
from adapterzoo.report import curves, pareto, side_by_side, table
from adapterzoo.report.columns import interval_text
from adapterzoo.results.result import Result
from adapterzoo.results.store import Store

HOSTILE = "\x1b[2J\x1b]0;owned\x07 [/] [red]x[/red] `*\u202e\tT"
CONTROL_CHARACTERS = {"\x1b", "\x07", "\u202e", "\t"}
LABELS = (HOSTILE, "日本語のとても長いラベル" * 4, "👩‍👩‍👧 emoji", "x" * 200, "plain")
EXAMPLES = 40


def write(folder: Path, label: str, right: float, seconds: float | None = 60.0, **given: Any) -> None:
    """Write a cell with this share of right answers; with the share 0, it has no answers and no metrics."""
    all_answers = [
        {
            "index": i,
            "prompt": f"verb {i}",
            "reference": f"past {i}",
            "prediction": f"{label} {i}",
            "exact_match": i < right * EXAMPLES,
        }
        for i in range(EXAMPLES if right else 0)
    ]
    answers = given.pop("answers", all_answers)
    values = {
        "method": "lora",
        "seed": 0,
        "quantization": "none",
        "total_params": 10**8,
        "trainable_params": 10**6,
    } | given
    metrics = values.pop("metrics", {"exact_match": right, "test_loss": 2 - right} if right else {})
    Store(folder).write(Result(label=label, metrics=metrics, train_seconds=seconds, **values), answers)


def history(end: float) -> list[dict[str, float]]:
    return [{"step": float(n), "loss": end + 3 * math.exp(-n / 5)} for n in range(1, 31)]


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Return rows of which ``best`` and ``cheap`` are the front; both beat ``worse``, and ``best`` beats ``slow``."""
    write(tmp_path, "best", 0.9, 300.0, history=history(0.2), trainable_params=2_000_000)
    write(tmp_path, "slow", 0.8, 2000.0, history=history(0.3))
    write(tmp_path, "cheap", 0.7, 100.0, history=history(0.4), trainable_params=50_000)
    write(tmp_path, "worse", 0.6, 400.0, history=history(0.5))
    write(tmp_path, "base", 0.1, None, method=None, trainable_params=0)
    write(tmp_path, "broke", 0.0, None, status="failed", error="out of memory")
    return compare(tmp_path)


def shown(view: Callable[..., None], *arguments: Any, width: int = 80, **console: Any) -> str:
    stream = io.StringIO()
    if console.get("no_color"):  # adapterzoo's own console does the same
        console["color_system"] = None
    view(*arguments, Console(file=stream, width=width, **console))
    lines = re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(map(cell_len, lines)) <= width or (view is side_by_side.render and "force_terminal" not in console)
    return stream.getvalue()


def canvas(text: str) -> list[str]:
    """Return the lines of a plot, without what is left of the y axis."""
    lines = [re.fullmatch(r" *[-.,\w]*[┤│](.*)", line) for line in text.splitlines()]
    return [line[1] for line in lines if line]


def legend(text: str) -> dict[str, list[str]]:
    """Return label -> letter and cells of each row in the legend."""
    lines = [line.split() for line in text[text.index("method") :].splitlines()[1:]]
    return {words[1]: [words[0], *words[2:]] for words in lines if len(words) > 2 and len(words[0]) == 1}


def front(text: str) -> set[str]:
    return {label for label, words in legend(text).items() if "front" in words}


@pytest.mark.parametrize("width", [80, 50])
def test_every_method_is_in_the_plot_and_in_the_legend(comparison: Comparison, width: int) -> None:
    text = shown(pareto.render, comparison, "train_seconds", width=width)
    assert "\x1b" not in text
    assert list(legend(text)) == ["best", "slow", "cheap", "worse", "base"]
    assert all("".join(canvas(text)).count(letter) == 1 for letter in "abcd")
    interval = interval_text(comparison.rows[0].intervals["exact_match"])
    assert legend(text)["best"] == ["a", "5:00", "0.900", interval, "front"]
    assert front(text) == {"best", "cheap"}
    assert legend(text)["base"][-2:] == ["below", "plot"]
    for line in ("not in the plot: broke (failed)", "match, higher is better", "time, lower is better, log scale"):
        assert line in text
    assert len(canvas(text)) == drawing.HEIGHT - 2


def test_a_point_is_at_its_score_and_cost(comparison: Comparison) -> None:
    rows = canvas(shown(pareto.render, comparison, "train_seconds"))
    place = {letter: (row, line.index(letter)) for row, line in enumerate(rows) for letter in "abcd" if letter in line}
    assert sorted(place, key=lambda letter: place[letter][0]) == ["a", "b", "c", "d"], "the best is highest"
    assert sorted(place, key=lambda letter: place[letter][1]) == ["c", "a", "d", "b"], "the most expensive is rightmost"
    assert [rows[place["b"][0] + shift][place["b"][1]] for shift in (-1, 0, 1)] == [*"│b│"], "with its interval"


def test_the_front_depends_on_which_values_are_better(comparison: Comparison, tmp_path: Path) -> None:
    by_loss = shown(pareto.render, compare(tmp_path, sort="test_loss"), "train_seconds")
    assert front(by_loss) == {"best", "cheap"}
    write(tmp_path, "fast", 0.5, tokens_per_second=90.0)
    write(tmp_path, "best", 0.9, tokens_per_second=10.0)
    faster = shown(pareto.render, compare(tmp_path), "tokens_per_second")
    assert front(faster) == {"best", "fast"}
    neither = shown(pareto.render, compare(tmp_path), "total_params")
    assert not front(neither)
    write(tmp_path, "fast", 0.5, environment={"processor": "another"})
    for column, labels in (("train_seconds", set()), ("trainable_params", {"best", "cheap"})):
        assert front(shown(pareto.render, compare(tmp_path), column)) == labels, "the machines are different"


def test_points_that_would_hide_each_other_are_side_by_side(tmp_path: Path) -> None:
    for label in "uvwxyz":
        write(tmp_path, label, 0.5, answers=[])
    text = shown(pareto.render, compare(tmp_path), "trainable_params")
    assert any(sorted(line.strip()) == [*"abcdef"] for line in canvas(text))
    assert front(text) == {*"uvwxyz"}, "none is better than another"
    for number in range(60):
        write(tmp_path, f"more-{number}", 0.5, answers=[])
    assert shown(pareto.render, compare(tmp_path), "trainable_params").count("(hidden)") == 66 - len(pareto.SHIFTS)


def test_rows_without_cost_or_score_are_named_below_the_plot(tmp_path: Path) -> None:
    write(tmp_path, "half", 0.95)
    write(tmp_path, "half", 0.0, seed=1, status="failed", error="killed")
    write(tmp_path, "whole", 0.9)
    write(tmp_path, "no-time", 0.8, None)
    write(tmp_path, "no-answers", 0.7, answers=[])
    write(tmp_path, "no-score", 0.0)
    write(tmp_path, "few-shot", 0.6, None, method=None)
    text = shown(pareto.render, compare(tmp_path), "train_seconds")
    assert "not in the plot: no-time (no train_seconds)\nnot in the plot: no-score (failed)\n" in text
    assert any(line.count("┄") > 60 and line.endswith("d") for line in canvas(text)), (
        "a base near the methods is a line"
    )
    assert legend(text)["few-shot"][-2:] == ["the", "line"]
    assert "log scale" not in text
    assert legend(text)["no-answers"] == ["c", "1:00", "0.700", "-"]
    assert legend(text)["half"][-3:] == ["a", "seed", "failed"]
    write(tmp_path / "one", "alone", 0.7, 1.5, answers=[])
    text = shown(pareto.render, compare(tmp_path / "one"), "train_seconds")
    assert legend(text) == {"alone": ["a", "1.5s", "0.700", "front"]}
    assert "".join(canvas(text)).strip() == "a"


def test_wrong_columns_and_empty_views_are_refused(
    comparison: Comparison, tmp_path: Path, adapterzoo: Callable[..., Any]
) -> None:
    hints = {
        "train_second": "Did you mean 'train_seconds'?",
        "base": "Choose from: ",
        "cost": "Give --price too.",
        "exact_match": "Choose from: ",
    }
    for column, hint in hints.items():
        with pytest.raises(UserError, match=re.escape(hint)):
            pareto.render(comparison, column, Console())
    write(tmp_path / "failed", "lora", 0.0, None, status="failed", error="no")
    for option in (["--pareto", "time"], ["--curves"], ["--examples", 2]):
        result = adapterzoo("compare", tmp_path / "failed", *option)
        assert result.exit_code == 2
        assert result.output.startswith(f"error: {option[0]}")


def test_options_without_effect_on_a_view_are_refused(
    comparison: Comparison, tmp_path: Path, adapterzoo: Callable[..., Any]
) -> None:
    write(tmp_path / "views", "lora", 0.5)
    for arguments, message in (
        (("--curves", "--against", "lora"), "--against: has no effect on --curves. Leave one of them out."),
        (("--examples", 1, "--price", 2), "--price: has no effect on --examples."),
        (("--json", "--curves"), "--curves: works only in the terminal. Leave out --json;"),
    ):
        refused = adapterzoo("compare", tmp_path / "views", *arguments)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_the_title_of_an_unknown_metric_is_its_name(tmp_path: Path) -> None:
    write(tmp_path, "lora", 0.5, metrics={"pass[/k]": 0.5})
    assert "pass[/k]" in shown(pareto.render, compare(tmp_path), "train_seconds")


def test_trials_of_numbers_and_texts_can_be_sorted(tmp_path: Path) -> None:
    trials = [
        {"settings": {"init": value}, "metric": "m", "score": 0.5, "loss": 1.0, "seconds": 1.0, "error": None}
        for value in ("pissa", True, "gaussian", 3)
    ]
    tuning = {"metric": "m", "trials": trials, "chosen": {"init": "pissa"}, "space": {}}
    write(tmp_path, "lora", 0.5, tuning=tuning)
    printed = table.plain(compare(tmp_path))
    note = "chosen from 4 settings by m on the validation rows (0.500, the lowest loss with this score)"
    assert f"init pissa {note}" in printed


def test_each_loss_is_plotted(comparison: Comparison) -> None:
    text = shown(curves.render, comparison)
    losses = {"best": "0.207", "slow": "0.307", "cheap": "0.407", "worse": "0.507"}
    assert {label: words[1] for label, words in legend(text).items()} == losses
    assert all(2 <= "".join(canvas(text)).count(letter) <= curves.LETTERS + 1 for letter in "abcd")
    assert text.startswith("training loss, log scale\n")
    assert "\x1b" not in text


def test_a_long_curve_is_smoothed_and_other_records_are_left_out(tmp_path: Path) -> None:
    noise = [{"step": n, "loss": 1.0 + n % 2} for n in range(1, 101)] + [{"step": 50, "eval_loss": 9.0}]
    write(tmp_path, "lora", 0.5, history=[*noise, {"step": 101, "loss": math.nan}])
    text = shown(curves.render, compare(tmp_path))
    assert text.startswith("training loss, means of 9 points\n")
    assert 1.3 < float(legend(text)["lora"][1]) < 1.7
    write(tmp_path, "lora", 0.5, history=[{"step": 1.0, "loss": 1e300}])
    assert legend(shown(curves.render, compare(tmp_path)))["lora"] == ["a", "1e+300"]


@pytest.mark.parametrize("width", [80, 50])
def test_hostile_labels_neither_control_the_terminal_nor_shift_the_legend(tmp_path: Path, width: int) -> None:
    for number in range(len(LABELS)):
        write(tmp_path, f"m{number}", 0.9 - number / 10, history=history(1.0))
    comparison = compare(tmp_path)
    for row, label in zip(comparison.rows, LABELS, strict=True):
        row.label = label
    for view, more in ((pareto.render, ["train_seconds"]), (curves.render, [])):
        text = shown(view, comparison, *more, width=width)
        assert not CONTROL_CHARACTERS & {*text}
        assert "[/]" in text
        assert len({cell_len(line) for line in text[text.index("  method") :].splitlines()}) == 1
    examples = shown(side_by_side.render, comparison, 1, width=width, force_terminal=True, no_color=True)
    assert not CONTROL_CHARACTERS & {*examples}


def test_only_a_terminal_with_colours_gets_colours(comparison: Comparison) -> None:
    for view, more in ((pareto.render, ["train_seconds"]), (curves.render, []), (side_by_side.render, [2])):
        given = {"width": 50, "height": 16, "color_system": "256", "force_terminal": True}
        coloured = shown(view, comparison, *more, **given)
        without = shown(view, comparison, *more, **given, no_color=True)
        assert "\x1b" not in without
        assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == without != coloured
        assert len(canvas(without)) == (16 - 4 - 2 if more != [2] else 0), "a small terminal gets a small plot"


def test_plots_of_other_code_in_the_process_are_not_shown(comparison: Comparison) -> None:
    import plotext

    plotext.figure.draw(plotext.figure.signal([1, 2], [1, 2], marker="Q"))
    text = shown(curves.render, comparison)
    assert "Q" not in text
    assert not {*"abcd"} & {*plotext.figure.build().string(colorless=True)}, "nothing is left behind"


def test_every_view_shows_blocks_separately(
    comparison: Comparison, tmp_path: Path, adapterzoo: Callable[..., Any]
) -> None:
    write(tmp_path / "other", "elsewhere", 0.3, history=history(0.9), fingerprints={"data": "another"})
    for option in (["--pareto", "time"], ["--curves"], ["--examples", 1]):
        result = adapterzoo("compare", tmp_path, tmp_path / "other", *option)
        assert result.exit_code == 0
        first, second = result.output.split("\nNot comparable with the first table: the data rows differ")
        assert ["best " in part for part in (first, second)] == [True, False]
        assert ["elsewhere" in part for part in (first, second)] == [False, True]


def test_answers_are_shown_below_their_example(
    comparison: Comparison, tmp_path: Path, adapterzoo: Callable[..., Any]
) -> None:
    lines = adapterzoo("compare", tmp_path, "--examples", 30).output.splitlines()
    assert lines[0] == "30 of 40 test examples; ✓ right, ✗ wrong (match)"
    at = lines.index("28  verb 28")
    answers = ("reference    past", "best       ✓ best", "slow       ✓ slow", "cheap      ✗ cheap")
    assert lines[at + 1 : at + 5] == [f"    {start} 28" for start in answers]
    assert lines[-1] == "no answers kept: broke (failed)"
    assert shown(side_by_side.render, comparison, 999).startswith("40 of 40 test examples")


def test_a_long_answer_is_cut_in_a_terminal_and_whole_in_a_pipe(tmp_path: Path) -> None:
    text = "\n".join(f"line {n} " + "long " * 30 for n in range(50)) + HOSTILE
    answer = {"index": 7, "prompt": text, "reference": "", "prediction": text, "chrf": 41.26}
    for label, seed, given in (("lora", 0, text), ("lora", 1, "second seed"), ("mute", 0, None)):
        write(tmp_path, label, 0.0, seed=seed, metrics={"chrf": 41.26}, answers=[{**answer, "prediction": given}])
    comparison = compare(tmp_path)
    piped = shown(side_by_side.render, comparison, 3)
    assert piped.startswith("1 of 1 test examples, the first seed's answers; with chrF\n7  line 0 long")
    assert "\n   lora       41.3 line 0 long" in piped
    assert "\n                   line 49 long" in piped, "further lines are below the first"
    assert "   reference       (empty)" in piped
    assert "second seed" not in piped
    assert piped.count("long") == 2 * 50 * 30
    assert not {*CONTROL_CHARACTERS, "…"} & {*piped}
    assert "no answers kept: mute" in piped
    cut = shown(side_by_side.render, comparison, 3, width=50, force_terminal=True, no_color=True)
    assert cut.count("…") == 2
    assert len(cut.splitlines()) <= 2 * side_by_side.MAX_LINES + 5
