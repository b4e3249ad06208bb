"""The metrics that come with adapterzoo: a module each, found as plugins are."""

SUITABLE = {
    "labels": ("accuracy", "macro_f1"),
    "long answers": ("rouge",),
    "short answers": ("exact_match",),
}
"""kind of answers -> the metrics that ``adapterzoo init`` proposes for them"""
DEFAULT = SUITABLE["short answers"]
"""what a recipe measures that names no metrics"""
