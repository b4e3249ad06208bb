"""The templates of HTML pages, which load nothing from the network and run only their own scripts."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from adapterzoo.terminal import clean


def render(template: str, **values: Any) -> str:
    """Return a page; every text in it is cleaned and escaped, because none is trusted.

    Args:
        template: name of the template, which is in this package.
        values: what the template shows.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    page = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
    )
    page.filters["digest"] = _digest
    text = (files("adapterzoo.report") / template).read_text(encoding="utf-8")
    return page.from_string(text).render(**values)


def _digest(content: str) -> str:
    """Return the hash by which the page's security policy allows a script or a style; a browser uses no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
