"""Take a chat template from a file, and let it write the same date on every day."""

from __future__ import annotations

import re
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

from adapterzoo.errors import UserError
from adapterzoo.tasks.contract import DataSettings

# Some chat templates write the current date into the prompt. They get this fixed date instead, so that rows are the
# same on every day. It is the default date of Llama 3's templates.
FIXED_DATE = datetime(2024, 7, 26)
DATE_CALL = re.compile(r"""strftime_now\(\s*(['"])(?P<format>(?:(?!\1).)*)\1\s*\)""")


def with_template(tokenizer: Any, data: DataSettings) -> Any:
    """Return a copy of a tokenizer, which has the chat template of a file if the recipe names one.

    Raises:
        UserError: the template's file cannot be read or parsed.
    """
    own = deepcopy(tokenizer)
    if data.chat_template not in ("auto", "plain"):
        own.chat_template = _read(Path(data.chat_template))
    return own


def _read(path: Path) -> str:
    """Return the text of a chat template's file, and check its syntax."""
    import jinja2

    try:
        text = path.read_text(encoding="utf-8")
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)  # noqa: S701  # it is not rendered
    except (OSError, UnicodeDecodeError) as error:
        raise UserError.at(str(path), f"cannot be read: {error}.") from None
    except RecursionError:
        raise UserError.at(str(path), "is not a Jinja template: it is nested too deeply.") from None
    except jinja2.TemplateSyntaxError as error:
        if "generation" not in str(error):  # transformers adds this tag to Jinja
            raise UserError.at(f"{path}:{error.lineno}", f"is not a Jinja template: {error.message}.") from None
    if not text.strip():
        raise UserError.at(str(path), "is empty.", "Give data.chat_template another template, or plain.")
    return text


def with_fixed_date(template: str) -> str:
    """Return a chat template that writes a fixed date where it would write the current one."""
    return DATE_CALL.sub(_fixed_date, template)


def _fixed_date(call: re.Match[str]) -> str:
    """Return what a call of ``strftime_now`` in a template is replaced by; the call itself if its format is wrong."""
    try:
        return repr(FIXED_DATE.strftime(call["format"]))
    except ValueError:
        return call[0]
