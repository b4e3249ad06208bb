"""Upload a folder to a repository of the hub, which is made if there is none, and never overwrite something else."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.adapters.finding import Say
from adapterzoo.errors import UserError
from adapterzoo.publishing.card import TAG
from adapterzoo.publishing.hub_errors import plain_errors
from adapterzoo.publishing.model_folder import CARD
from adapterzoo.terminal import size

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# The hub itself makes this file.
FILES_OF_HUB = frozenset({".gitattributes"})
LOGIN_HINT = "Log in with a token that may write (hf auth login), or set HF_TOKEN."


@dataclass(frozen=True)
class Target:
    """A repository of the hub, and what the user allows there."""

    id: str
    """owner and name"""
    kind: str
    """``model`` or ``dataset``"""
    marker: Mapping[str, Any]
    """what the card of the repository says if it is the one of this adapter or comparison"""
    public: bool = False
    overwrite: bool = False
    """whether everything in a repository that holds something else may be replaced"""


@dataclass(frozen=True)
class Found:
    """The state of a repository before an upload."""

    exists: bool
    ours: bool
    """whether an earlier push of the same thing made it"""


def check_id(id: str) -> None:
    """Raise UserError if a text is no id of a repository, with its owner."""
    if not re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", id, re.ASCII) or ".." in id or "--" in id:
        hint = "Give OWNER/NAME, such as ada/verbs: letters, digits and single - _ . signs."
        raise UserError.at(id, "is no id of a repository.", hint)


def look(target: Target) -> Found:
    """Return what is in a repository.

    Raises:
        UserError: it holds something else, or is public against the user's will, or the hub cannot be asked.
    """
    from huggingface_hub import HfApi, get_token, hf_hub_download
    from huggingface_hub.errors import RepositoryNotFoundError

    if get_token() is None:
        raise UserError.at(target.id, "cannot be written: there is no login for the hub.", LOGIN_HINT)
    with plain_errors(target.id):
        try:
            info: Any = HfApi().repo_info(target.id, repo_type=target.kind)
        except RepositoryNotFoundError as error:
            if "Invalid credentials" in str(error):
                raise
            return Found(exists=False, ours=False)
        if not info.private and not target.public:
            what = "is public."
            raise UserError.at(target.id, what, "Give --public, or make it private in its settings on the hub.")
        files = {file.rfilename for file in info.siblings or ()} - FILES_OF_HUB
        card = hf_hub_download(target.id, CARD, repo_type=target.kind) if CARD in files else None
    ours = card is not None and _marker(Path(card)) == dict(target.marker)
    if files and not ours and not target.overwrite:
        what = "holds something else."
        hint = "Give another name; or --overwrite, which replaces all its files (its history keeps them)."
        raise UserError.at(target.id, what, hint)
    return Found(exists=True, ours=ours)


def _marker(card: Path) -> Any:
    """Return the marker of adapterzoo in a card; None if there is none, or the card cannot be read."""
    from huggingface_hub import RepoCard

    try:
        data: Any = RepoCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        return data.to_dict().get(TAG)
    except Exception:  # anybody may have written it
        return None


def upload(target: Target, found: Found, folder: Path, message: str, say: Say) -> str:
    """Upload a folder, and return the address of the repository.

    If it is stopped, the same call goes on: what has arrived at the hub is not sent again.

    Raises:
        UserError: the hub does not accept it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    bytes_to_send = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"uploading {size(bytes_to_send)} to {target.id} (what the hub already has is not sent again)")
    api = HfApi()
    with plain_errors(target.id), _quiet_library():
        if not found.exists:
            api.create_repo(target.id, repo_type=target.kind, private=not target.public)
        elif target.public and api.repo_info(target.id, repo_type=target.kind).private:
            say(f"{target.id} was made private and stays so; its settings on the hub change that")
        if not found.ours:
            # The card goes first: if the rest is interrupted, the next push sees by it that the repository is its own.
            _upload_card(api, target, folder, message)
        api.upload_folder(
            repo_id=target.id,
            folder_path=folder,
            repo_type=target.kind,
            commit_message=message,
            delete_patterns="*" if target.overwrite and not found.ours else None,
        )
    place = "" if target.kind == "model" else f"{target.kind}s/"
    return f"{api.endpoint}/{place}{target.id}"


def _upload_card(api: HfApi, target: Target, folder: Path, message: str) -> None:
    api.upload_file(
        path_or_fileobj=folder / CARD,
        path_in_repo=CARD,
        repo_id=target.id,
        repo_type=target.kind,
        commit_message=message,
    )


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Keep the messages of the hub's library away, and its progress bars where there is no terminal."""
    import huggingface_hub.utils

    utils: Any = huggingface_hub.utils  # its types do not show these functions, which its documents name
    verbosity, hidden = utils.logging.get_verbosity(), utils.are_progress_bars_disabled()
    utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        utils.logging.set_verbosity(verbosity)
        if not hidden:
            utils.enable_progress_bars()
