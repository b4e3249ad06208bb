"""Check the metrics: scores that can be computed by hand, and mistakes in third-party metrics."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy
import pytest
from click.testing import Result
from third_party import METHOD, plugin

from adapterzoo import Metric, PluginError
from adapterzoo.methods.registry import Registry
from adapterzoo.metrics.built_in import bleu, classification, rouge
from adapterzoo.metrics.contract import overall, per_example
from adapterzoo.metrics.measured import MEASURED_NAMES, RECORD_KEYS
from adapterzoo.metrics.registry import Metrics, metrics
from adapterzoo.tasks.evaluation import Prediction

DOCUMENT = Path("docs/metrics.md").read_text(encoding="utf-8")
BUILT_IN = Metrics([])
SCORED = [name for name in BUILT_IN if BUILT_IN[name].score]
"""metrics that compare answers with references"""
CORRELATIONS = ("matthews", "spearman")  # of all answers; they are 0 if all answers are the same
UP_TO_100 = ("bleu", "chrf")
TEXTS = {
    "English": "The cat sat on the mat.",
    "Chinese": "猫坐在垫子上，很高兴。",
    "Japanese": "猫はマットの上に座っている。",
    "Korean": "고양이가 매트 위에 앉아 있다.",
    "Thai": "แมวกำลังนั่งอยู่บนเสื่อ",
    "Arabic": "القِطة تجلس على السجادة.",
    "Hindi": "बिल्ली चटाई पर बैठी है।",
    "Russian": "Кошка сидит на коврике.",
    "one word": "walked",
}


def split_score(name: str, pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Return the score of a whole split, given pairs of reference and answer."""
    metric = BUILT_IN[name]
    references, answers = [list(texts) for texts in zip(*pairs, strict=True)]
    return overall(metric, references, answers, [per_example(metric, *pair) for pair in pairs])


def test_each_module_is_a_plugin_and_none_is_broken() -> None:
    files = {path.stem for path in Path("adapterzoo/metrics/built_in").glob("*.py") if not path.stem.startswith("_")}
    assert {BUILT_IN[name].score.__module__.rpartition(".")[2] for name in SCORED} | {
        "preference",
        "retrieval",
        "reward",
    } == files
    assert not BUILT_IN.broken
    assert not [broken for broken in metrics().broken if broken.package == "adapterzoo"]
    assert set(BUILT_IN) <= set(metrics())


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", [name for name in SCORED if name not in CORRELATIONS])
def test_a_right_answer_has_the_highest_score_in_any_language(name: str, text: str) -> None:
    best = 100 if name in UP_TO_100 else 1
    metric = BUILT_IN[name]
    for found in (per_example(metric, text, text), split_score(name, [(text, text), (text, text)])):
        # A single word has no pairs of words.
        expected = {c: 0 if (c, text) == ("rouge2", "walked") else best for c in metric.columns}
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", SCORED)
def test_an_empty_answer_scores_zero(name: str, text: str) -> None:
    for found in (per_example(BUILT_IN[name], text, ""), split_score(name, [(text, ""), (text, " ")])):
        assert set(found.values()) == {0}


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("answer", ["", "\n", "\x00", "\ud800", "。", "👍", "\u0301", "%", "<s>", "a" * 5000])
def test_any_answer_has_a_score(name: str, answer: str) -> None:
    for reference in ("one", "?", answer or "!"):
        split_score(name, [(reference, answer)])


def test_exact_match_ignores_unicode_form_and_white_space_and_nothing_else() -> None:
    composed, decomposed = "caf\u00e9 noir", "cafe\u0301 \n\u00a0noir\n"
    assert split_score("exact_match", [(composed, decomposed)]) == {"exact_match": 1.0}
    answers = ["Walked", "walked.", "walk ed", "walked"]
    assert split_score("exact_match", [("walked", answer) for answer in answers]) == {"exact_match": 0.25}
    assert per_example(BUILT_IN["exact_match"], "a", "a")["exact_match"] is True


def test_rouge_by_hand() -> None:
    # The texts share five of six words and three of five pairs; their longest common subsequence has five words.
    found = split_score("rouge", [("the cat sat on the mat", "The cat lay on the mat!")])
    assert found == pytest.approx({"rouge1": 5 / 6, "rouge2": 3 / 5, "rougeL": 5 / 6})
    # In Chinese each character is a word; three of four are shared.
    found = split_score("rouge", [("我爱北京", "我在北京")])
    assert found == pytest.approx({"rouge1": 3 / 4, "rouge2": 1 / 3, "rougeL": 3 / 4})
    # In the Arabic texts, two of three words are shared.
    assert split_score("rouge", [("ذهب الولد غدا", "ذهب الولد أمس")])["rouge1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop_it: 3.5!", ["don", "t", "stop", "it", "3", "5"]),
        ("GPT-4用Python写代码", ["gpt", "4", "用", "python", "写", "代", "码"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("كَتَبَ، نعم", ["كَتَبَ", "نعم"]),
        ("กำ ดี", ["ก", "ำ", "ดี"]),
        ("Cafe\u0301 CAF\u00c9", ["caf\u00e9", "caf\u00e9"]),
        ("고양이가 있다", ["고양이가", "있다"]),
        ("カー・ナビ", ["カ", "ー", "ナ", "ビ"]),
        ("\u0301 ? _", []),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    assert rouge.Words().tokenize(text) == words


def test_rouge_of_ascii_text_is_that_of_the_packages_own_tokenizer() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(rouge.COLUMNS))
    generator = random.Random(0)
    for _ in range(500):
        letters = generator.choice(["ab _.", "".join(map(chr, range(128)))])
        reference, answer = ("".join(generator.choices(letters, k=generator.randint(0, 40))) for _ in range(2))
        expected = scorer.score(reference, answer)
        assert rouge.rouge(reference, answer) == {name: expected[name].fmeasure for name in rouge.COLUMNS}


def test_bleu_and_chrf_are_sacrebleus_scores_of_the_whole_split() -> None:
    import sacrebleu

    references = ["The cat sat on the mat.", "It is raining, is it not?", "Yes."]
    answers = ["The cat sat on a mat.", "It rains.", "No."]
    pairs = list(zip(references, answers, strict=True))
    expected = {
        "bleu": (sacrebleu.corpus_bleu(answers, [references]), sacrebleu.sentence_bleu),
        "chrf": (sacrebleu.corpus_chrf(answers, [references]), sacrebleu.sentence_chrf),
    }
    for name, (whole, sentence) in expected.items():
        assert split_score(name, pairs) == {name: whole.score}
        for reference, answer in pairs:
            assert per_example(BUILT_IN[name], reference, answer) == {name: sentence(answer, [reference]).score}
    assert 20 < split_score("bleu", pairs)["bleu"] < 50


@pytest.mark.parametrize(
    ("references", "tokenizer"),
    [
        (["The cat"], "13a"),
        (["القطة تجلس", "кошка"], "13a"),
        (["我爱北京", "42", "是"], "zh"),
        (["The cat", "我爱北京"], "13a"),
        (["東京", "猫はマット", "犬がいる"], "char"),
        (["고양이", "개"], "char"),
        (["แมว"], "char"),
    ],
)
def test_the_references_decide_on_the_tokenizer_of_bleu(references: list[str], tokenizer: str) -> None:
    assert bleu.tokenizer(references) == tokenizer


def test_one_long_answer_does_not_change_how_all_short_ones_are_scored() -> None:
    right = [("has gone", "has gone")] * 99
    short, long = (
        split_score("bleu", [*right, ("has gone", answer)])["bleu"] for answer in ("goes", "he was going home")
    )
    assert short > 99
    assert long > 95, "it was 49, because of sequences of four words, which no right answer has"


def test_bleu_compares_chinese_and_japanese_characters() -> None:
    for reference, answer in (("猫坐在垫子上", "猫坐在椅子上"), ("猫はマットの上", "猫はマットの下")):
        assert 20 < split_score("bleu", [(reference, answer)])["bleu"] < 90


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" Positive.\n", "positive"),
        ('"positive"', "positive"),
        ("**Positive**.", "positive"),
        ("“Neutral”", "neutral"),
        ("「正面」。", "正面"),
        ("New \n York", "new york"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("Cafe\u0301", "caf\u00e9"),
        ("C#", "c#"),
        ("-1", "-1"),
        ("A*", "a*"),
        ("***", "***"),
        ("<50K", "<50k"),
        (":)", ":)"),
        ("?", "?"),
        ("", ""),
    ],
)
def test_the_label_that_a_text_names(text: str, label: str) -> None:
    assert classification.label(text) == label
    assert classification.label(label) == label


def test_macro_f1_by_hand() -> None:
    # yes has one hit, one miss and no false alarm: 2/3. no has one hit and one false alarm: 2/3. maybe has a miss: 0.
    pairs = [("yes", "Yes."), ("yes", "no"), ("no", "no"), ("maybe", "perhaps")]
    assert split_score("macro_f1", pairs)["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert split_score("accuracy", pairs) == {"accuracy": 0.5}
    assert [per_example(BUILT_IN["macro_f1"], *pair)["macro_f1"] for pair in pairs] == [True, False, True, False]


def test_macro_f1_equals_scikit_learns() -> None:
    from sklearn.metrics import f1_score

    generator = random.Random(0)
    for _ in range(100):
        count = generator.randint(1, 30)
        references = generator.choices("abc", k=count)
        answers = generator.choices(["a", "b", "c", "d", ""], k=count)
        labels = sorted(set(references))
        expected = f1_score(references, answers, labels=labels, average="macro", zero_division=0)
        assert classification.macro_f1(references, answers) == pytest.approx(expected, abs=1e-12)


def test_metrics_of_labels() -> None:
    assert {name for name in BUILT_IN if BUILT_IN[name].label} == {"accuracy", "macro_f1", "matthews"}


def test_correlations_by_hand() -> None:
    pairs = [("a", "a"), ("a", "A."), ("b", "b"), ("b", "a")]
    # Two by two: 2 right a, 1 right b, 1 b called a: (2 * 1 - 1 * 0) / sqrt(3 * 2 * 2 * 1).
    assert split_score("matthews", pairs)["matthews"] == pytest.approx(2 / 12**0.5)
    assert split_score("spearman", [("1", "10"), ("2", "30"), ("3", "20")])["spearman"] == pytest.approx(0.5)
    assert split_score("spearman", [("1", "10"), ("2", "none"), ("3", "20")])["spearman"] == pytest.approx(1.0)
    assert split_score("spearman", [("1", "1"), ("2", "1")]) == {"spearman": 0.0}


def test_f1_of_several_labels_by_hand() -> None:
    pairs = [("a; b", "b"), ("a", "a; b"), ("", "")]
    # a: one hit, one miss; b: one hit, one false alarm.
    assert split_score("label_f1", pairs)["label_f1"] == pytest.approx(2 / 3)
    assert [per_example(BUILT_IN["label_f1"], *pair)["label_f1"] for pair in pairs] == pytest.approx([2 / 3, 2 / 3, 1])


@pytest.mark.parametrize(
    ("returned", "kept"),
    [(True, True), (1, 1.0), (0.5, 0.5), ({"mine": 0.25}, 0.25), (numpy.float32(0.5), 0.5), (numpy.bool_(1), True)],
)
def test_numbers_of_any_type_are_accepted(returned: Any, kept: float | bool) -> None:
    (value,) = per_example(Metric("mine", lambda reference, answer: returned, "m"), "a", "b").values()
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize("function", ["score", "total"])
@pytest.mark.parametrize("returned", [float("nan"), float("inf"), "0.5", None, [1.0], {}, {"x": 1.0}, 1j, 10**400])
def test_a_score_that_is_not_a_number_is_an_error_that_names_the_metric(function: str, returned: Any) -> None:
    with pytest.raises(PluginError, match=rf"{function}\(\) of metric 'mine' returned .*not a finite number"):
        call(function, lambda *texts: returned)


@pytest.mark.parametrize("function", ["score", "total"])
def test_an_exception_in_a_metric_is_an_error_that_names_it(function: str) -> None:
    def divides(*texts: object) -> float:
        return 1 / 0

    def exits(*texts: object) -> float:
        sys.exit("bye")

    with pytest.raises(PluginError, match=rf"{function}\(\) of metric 'mine' raised ZeroDivisionError"):
        call(function, divides)
    with pytest.raises(PluginError, match=rf"{function}\(\) of metric 'mine' raised SystemExit: bye"):
        call(function, exits)


def call(function: str, body: Any) -> None:
    if function == "score":
        per_example(Metric("mine", body, "m"), "a", "b")
    else:
        overall(Metric("mine", lambda reference, answer: 1.0, "m", total=body), ["a"], ["b"], [{"mine": 1.0}])


def test_a_score_must_have_a_number_for_every_column() -> None:
    def returns(returned: Any) -> Metric:
        return Metric("mine", lambda reference, answer: returned, "m", columns=("b", "a"))

    assert list(per_example(returns({"a": 1, "b": 2}), "", "").items()) == [("b", 2.0), ("a", 1.0)]
    for returned in (1.0, {"a": 1.0}, {"a": 1.0, "b": float("nan")}, {"a": 1.0, "b": 1.0, "c": 1.0}):
        with pytest.raises(PluginError, match=r"'mine' returned .* each of b, a"):
            per_example(returns(returned), "", "")


def test_without_a_total_the_score_is_the_mean_and_a_mean_too_large_is_an_error() -> None:
    metric = Metric("mine", lambda reference, answer: 1.0, "m")
    assert overall(metric, "abc", "abc", [{"mine": True}, {"mine": False}, {"mine": 0.5}]) == {"mine": 0.5}
    with pytest.raises(PluginError, match="'mine' are too large"):
        overall(metric, "ab", "ab", [{"mine": 1e308}, {"mine": 1e308}])


def test_no_metric_may_have_a_key_of_the_records() -> None:
    assert Prediction(0, "question", "yes", "no", None).record().keys() == RECORD_KEYS


GOOD = """
from adapterzoo import Metric, hookimpl
def score(reference, answer):
    "How good it is."
    return 0.5
@hookimpl
def adapterzoo_metrics():
    return [Metric("NAME", score)]
"""
MINE = METHOD.replace("NAME", "mine")


def test_a_third_party_metric_is_found_and_needs_no_method(plugin_folder: Path) -> None:
    point = plugin("good", plugin_folder, GOOD.replace("NAME", "good"))
    found = Metrics([*entry_points(group="adapterzoo"), point])
    assert per_example(found["good"], "a", "b") == {"good": 0.5}
    assert (found["good"].summary, found.package("good"), found.package("rouge")) == (
        "How good it is",
        "?",
        "adapterzoo",
    )
    assert not Registry([point]).broken


def test_one_module_may_have_methods_and_metrics(plugin_folder: Path) -> None:
    points = [plugin("both", plugin_folder, MINE + GOOD.replace("NAME", "mine")), plugin("method", plugin_folder, MINE)]
    assert "mine" in Metrics(points)
    assert "mine" in Registry(points)
    assert not Metrics(points).broken


def test_the_example_in_the_document_is_a_working_plugin(plugin_folder: Path) -> None:
    (body,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    metric = Metrics([plugin("document", plugin_folder, body)])["same-length"]
    assert per_example(metric, "a b", "c d") == {"same-length": True}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('on import')", "RuntimeError: on import"),
        ("import sys\nsys.exit('bye')", "it called sys.exit('bye') while it was loaded"),
        ("def adapterzoo_metrics(): return []", "is @hookimpl missing?"),
        (MINE + "def adapterzoo_metrics(): return []", "is @hookimpl missing?"),
        (GOOD.partition("    return [")[0] + "    raise ValueError('in the hook')", "in the hook"),
        (GOOD.partition("    return [")[0] + "    return 3", "returned 3, not a list of metrics"),
        (GOOD.partition("    return [")[0] + "    return ['rouge']", "which is not an adapterzoo.Metric"),
        (GOOD.replace("NAME", "rouge"), "already the name of a metric from adapterzoo"),
        (GOOD.replace("NAME", "loss"), "measures itself"),
        (GOOD.replace("NAME", "token_accuracy"), "measures itself"),
        (GOOD.replace("NAME", "../x"), "only lower-case letters"),
        (GOOD.replace('"NAME", score', "5, score"), "a metric's name is 5"),
        (GOOD.replace("NAME", "mine").replace(", score", ", 'score'"), "score is 'score', not a function"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, total=1"), "total is 1, not a function"),
        (GOOD.replace("NAME", "mine").replace('"How good it is."', "pass"), "summary is '', not a line of text"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, summary=5"), "summary is 5"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, columns='ab'"), "columns is 'ab'"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, columns=('a', 'a')"), "the same name twice"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, columns=('a b',)"), "columns is ('a b',)"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, columns=('rougeL',)"), "a column of metric 'rouge'"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, columns=('method',)"), "something else"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, columns=('test_loss',)"), "something else"),
        (GOOD.replace("NAME", "tokens"), "'tokens' has the column tokens, which means something else"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, columns=('prediction',)"), "something else"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, better='up'"), "better is 'up'"),
        (GOOD.replace("NAME", "mine").replace(", score", ", score, label='yes'"), "label is 'yes'"),
        (GOOD.replace("NAME", "mine").replace("score)]", "score)] * 2"), "it has two metrics named 'mine'"),
    ],
)
def test_a_broken_plugin_is_left_out_with_its_reason(plugin_folder: Path, body: str, reason: str) -> None:
    found = Metrics([plugin("bad", plugin_folder, body), plugin("good", plugin_folder, GOOD.replace("NAME", "good"))])
    (broken,) = found.broken
    assert broken.plugin == "bad"
    assert reason in broken.reason
    assert set(found) == {*BUILT_IN, "good"}
    assert broken.reason in found.hint("bad")
    assert "'rouge'" in found.hint("rogue")


def test_third_party_metrics_can_be_switched_off(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERZOO_NO_THIRD_PARTY", "1")
    found = Metrics([plugin("good", plugin_folder, GOOD.replace("NAME", "good"))])
    assert set(found) == set(BUILT_IN)
    assert [broken.reason for broken in found.broken] == ["switched off by ADAPTERZOO_NO_THIRD_PARTY"]


def test_finding_the_metrics_imports_nothing_heavy() -> None:
    code = "import adapterzoo.metrics.registry as m, sys; assert len(m.metrics()) >= 6; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "sacrebleu", "rouge_score", "nltk"} & set(done.stdout.split())


def test_the_document_has_every_metric_with_its_columns() -> None:
    """Only built-in metrics count, because third-party ones may be installed as well."""
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|", DOCUMENT.partition("## A metric")[0], re.MULTILINE))
    assert set(rows) == {*BUILT_IN, *MEASURED_NAMES}
    for name, metric in BUILT_IN.items():
        assert rows[name] == ", ".join(metric.columns)


def test_a_metric_that_raises_is_named_before_training(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def needs_words(reference: str, answer: str) -> float:
        return 1 / len(answer.split())

    monkeypatch.setitem(metrics()._items, "needs_words", Metric("needs_words", needs_words, "a test"))
    monkeypatch.setitem(metrics()._packages, "needs_words", "strange")
    recipe = write_recipe("lora")
    done = adapterzoo("check", recipe, "--set", "evaluate.metrics=[needs_words]")
    assert done.exit_code == 2, done.output
    shown = " ".join(done.output.split())
    assert "score() of metric 'needs_words' raised ZeroDivisionError" in shown
    assert "Correct it in strange, or leave it out" in shown
