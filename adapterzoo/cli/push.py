"""``adapterzoo push``: publish a trained adapter, or a comparison, on the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterzoo.cli.arguments import trust_option
from adapterzoo.errors import UserError
from adapterzoo.terminal import safe, stderr, stdout_to_stderr

if TYPE_CHECKING:
    from adapterzoo.publishing.hub import Target

ONLY_MODELS = ("seed", "merged", "base_id")
ONLY_TABLES = ("with_predictions",)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option("-m", "--method", help="Label or method of the adapter.")
@click.option("--table", is_flag=True, help="Publish the comparison, as a dataset, and no adapter.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the adapter [the first].")
@click.option("--merged", is_flag=True, help="Publish a plain model, with the adapter merged into its weights.")
@click.option("--public", is_flag=True, help="Everybody may see it [nobody but the owner].")
@click.option("--licence", "--license", metavar="ID", help="Licence for the card, such as apache-2.0 [none is named].")
@click.option("--base-id", metavar="OWNER/NAME", help="Hub id of the base model, if the recipe names a folder.")
@click.option("--with-predictions", is_flag=True, help="With --table: publish the test rows and all answers too.")
@click.option("--overwrite", is_flag=True, help="Replace all files of a repository that holds something else.")
@click.option("--dry-run", is_flag=True, help="Only write the folder that would be uploaded.")
@click.option("--to", metavar="OUT", type=click.Path(path_type=Path), help="Folder for --dry-run [./NAME].")
@trust_option
@click.pass_context
def push(
    context: click.Context,
    folder: Path,
    repository: str,
    method: str | None,
    table: bool,
    seed: int | None,
    merged: bool,
    public: bool,
    licence: str | None,
    base_id: str | None,
    with_predictions: bool,
    overwrite: bool,
    dry_run: bool,
    to: Path | None,
    trust_remote_code: bool,
) -> None:
    """Publish the adapter METHOD in DIR, or with --table the comparison, as the repository OWNER/NAME of the hub.

    The repository is private unless --public is given. Its card says what it is, how to load it, and what it was
    compared with. Local paths, logins and data rows are not published. If the upload is stopped, the same command
    goes on.
    """
    from adapterzoo.publishing.hub import check_id

    _check_options(context.params)
    check_id(repository)
    if base_id is not None:
        check_id(base_id)
    if table:
        marker, write, message = _table(folder, repository, licence, with_predictions, trust_remote_code)
    else:
        marker, write, message = _model(folder, repository, method or "", context.params)
    if dry_run:
        _write(write, to or Path(repository.partition("/")[2]))
        return
    from adapterzoo.publishing.hub import Target

    _upload(Target(repository, "dataset" if table else "model", marker, public, overwrite), write, message)


def _check_options(given: dict[str, Any]) -> None:
    """Raise UserError for options that do not go together."""
    if given["table"] == (given["method"] is not None):
        what = "contradicts --method." if given["table"] else "is missing."
        place = "--table" if given["table"] else "--method"
        raise UserError.at(place, what, "Give --method for an adapter, or --table for the comparison.")
    for name in ONLY_MODELS if given["table"] else ONLY_TABLES:
        if given[name] not in (None, False):
            instead = "--table" if given["table"] else "--method"
            raise UserError.at(f"--{name.replace('_', '-')}", f"has no effect on {instead}.", "Leave one of them out.")
    if given["to"] is not None and not given["dry_run"]:
        raise UserError.at("--to", "is only for --dry-run.", "Give both, or leave it out.")


Parts = tuple[dict[str, Any], Callable[[Path], None], str]
"""marker of the repository, what writes its folder, and the message of the commit"""


def _model(folder: Path, repository: str, method: str, given: dict[str, Any]) -> Parts:
    """Return what publishes an adapter, after everything was checked that needs no weights."""
    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.publishing.card import marker
    from adapterzoo.publishing.model_folder import ModelSettings, check_pushable, write_model
    from adapterzoo.running.progress import reporter

    merged = given["merged"]
    adapter = find_adapter(folder, method, given["seed"], given["trust_remote_code"])
    check_pushable(adapter, merged=merged)
    settings = ModelSettings(repository, merged, given["licence"], given["base_id"])
    message = f"{adapter.result.label}, seed {adapter.result.seed}{', merged' if merged else ''} (adapterzoo)"
    return marker(adapter, merged=merged), lambda to: write_model(adapter, to, settings, reporter().say), message


def _table(folder: Path, repository: str, licence: str | None, with_predictions: bool, trust: bool) -> Parts:
    """Return what publishes a comparison."""
    from adapterzoo.adapters.finding import stored_recipe
    from adapterzoo.publishing.table_folder import TableSettings, table_marker, write_table
    from adapterzoo.results.reading import read_results
    from adapterzoo.running.progress import reporter

    read_results(folder)
    settings = TableSettings(repository, licence, with_predictions)

    def write(to: Path) -> None:
        write_table(folder, to, settings, reporter().say, trust_remote_code=trust)

    return table_marker(stored_recipe(folder, trust)), write, "Comparison of adapter methods (adapterzoo)"


def _write(write: Callable[[Path], None], to: Path) -> None:
    """Write the folder, for the user to look at."""
    from adapterzoo.files import new_folder, require_free
    from adapterzoo.machine.quiet import quiet_libraries

    require_free(to, "--to")
    with stdout_to_stderr(), quiet_libraries(), new_folder(to) as written:
        write(written)
    stderr().print(safe(f"{to} written; nothing was uploaded."), soft_wrap=True)


def _upload(target: Target, write: Callable[[Path], None], message: str) -> None:
    """Write the folder to a place of its own, upload it, and print the address of the repository."""
    import tempfile

    from adapterzoo.files import cache_folder, remove_abandoned
    from adapterzoo.machine.quiet import quiet_libraries
    from adapterzoo.publishing.hub import look, upload
    from adapterzoo.running.progress import reporter

    found = look(target)
    cache_folder().mkdir(parents=True, exist_ok=True)
    remove_abandoned(cache_folder(), ".push-*")
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".push-") as scratch:
        folder = Path(scratch) / "repository"
        with stdout_to_stderr(), quiet_libraries():
            write(folder)
            address = upload(target, found, folder, message, reporter().say)
    click.echo(address)
