"""The metrics that come with adapterzoo, one module each; they are found like those of plugins."""

SUITABLE = {
    "labels": ("accuracy", "macro_f1"),
    "long answers": ("rouge",),
    "short answers": ("exact_match",),
}
"""kind of answers -> metrics that ``adapterzoo init`` proposes for them"""
DEFAULT = SUITABLE["short answers"]
"""metrics of a recipe that names none"""
