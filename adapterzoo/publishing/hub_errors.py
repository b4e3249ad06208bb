"""Explain in plain sentences why the hub did not do what was asked, without any login or signed address."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from adapterzoo.data.hub import OFFLINE_VARIABLES, UNREACHABLE_ERRORS, error_chain
from adapterzoo.errors import UserError
from adapterzoo.publishing.privacy import secrets
from adapterzoo.terminal import clean

AGAIN = "Run the same command again: what has arrived is not sent again."
MAX_MESSAGE_LENGTH = 300


@contextmanager
def plain_errors(repository: str) -> Iterator[None]:
    """Turn every error of the hub's library in a block into a UserError about this repository."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _explained(repository, error) from None


def _explained(repository: str, error: Exception) -> UserError:
    names = {type(cause).__name__ for cause in error_chain(error)}
    status = _status(error)
    if "OfflineModeIsEnabled" in names:
        variable = next((name for name in OFFLINE_VARIABLES if os.environ.get(name)), OFFLINE_VARIABLES[0])
        return UserError.at(repository, f"{variable} is set, so the hub is not asked.", "Unset it to push.")
    if status is not None:
        return UserError.at(repository, *_of_status(status, repository.partition("/")[0], _message(error)))
    if names & UNREACHABLE_ERRORS or "TimeoutException" in names:
        return UserError.at(repository, "the hub cannot be reached, or the connection broke.", f"Connect. {AGAIN}")
    return UserError.at(repository, f"the upload failed: {_message(error)}.", AGAIN)


def _of_status(status: int, owner: str, message: str) -> tuple[str, str]:
    """Return what an answer with an HTTP status means, and what to do about it.

    Args:
        status: the status.
        owner: owner of the repository.
        message: what the hub answered.
    """
    quoted = f" ({message})" if message else ""
    if status == 401:
        return "the hub does not know this login.", "Log in again (hf auth login), or correct HF_TOKEN."
    if status == 403:
        return f"this login may not write there{quoted}.", f"Use a token with write rights, and a member of {owner}."
    if status == 404:
        hint = "Check the name, and who you are (hf auth whoami)."
        return "is not there any more, or this login may not see it.", hint
    if status in (402, 413):
        return f"the hub has no room for it{quoted}.", "Free some storage on the hub."
    if status in (409, 412):
        return f"it exists and this login may not see it, or somebody changes it at this moment{quoted}.", AGAIN
    if status == 429:
        return "the hub wants fewer requests.", f"Wait some minutes. {AGAIN}"
    if status >= 500:
        return f"the hub has trouble of its own (status {status}).", f"Wait. {AGAIN}"
    return f"the hub does not accept it (status {status}){quoted}.", ""


def _status(error: Exception) -> int | None:
    """Return the HTTP status of the answer that led to an error; None if there was no answer."""
    responses = (getattr(cause, "response", None) for cause in error_chain(error))
    return next((response.status_code for response in responses if response is not None), None)


def _message(error: Exception) -> str:
    """Return what the hub or its library says, in one line, without logins and without what follows ``?`` in URLs."""
    quoted = next((text for cause in error_chain(error) if (text := getattr(cause, "server_message", None))), None)
    text = clean(quoted if quoted is not None else error if _status(error) is None else "")
    for secret in secrets():
        text = text.replace(secret, "...")
    text = re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text)
    return " ".join(text.split())[:MAX_MESSAGE_LENGTH].rstrip(".")
