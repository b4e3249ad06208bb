"""Report options that a method would ignore, because another option turns off what they are for."""

from __future__ import annotations

from adapterzoo import Options, Problem


def idle_options(options: Options, names: tuple[str, ...], why: str) -> list[Problem]:
    """Return a problem for each of some options that differs from its default, and has no effect.

    Args:
        options: the options of a method.
        names: names of those that have no effect.
        why: the reason, as the end of a sentence.
    """
    defaults = type(options)()
    changed = [name for name in names if getattr(options, name) != getattr(defaults, name)]
    return [Problem(name, f"has no effect: {why}.", "Leave it out.") for name in changed]
