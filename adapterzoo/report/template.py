"""The templates of HTML pages, which load nothing from the network and run only their own scripts."""

from __future__ import annotations

import base64
import hashlib
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING

from adapterzoo.terminal import clean

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(package: str) -> Environment:
    """Return what renders the templates in a package; every text is cleaned and escaped, because none is trusted."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
        loader=FunctionLoader(partial(source, package)),
    )
    made.filters["digest"] = _digest
    return made


@cache
def source(package: str, name: str) -> str:
    """Return the text of a file in a package."""
    return (files(package) / name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """Return the hash by which the page's security policy allows a script or a style; a browser uses no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
