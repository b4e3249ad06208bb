"""The part of the local hub that is written to: it makes repositories, and takes large files and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

LARGE_FILES = (".safetensors", "tokenizer.json", "comparison.json", "comparison.html")
COMMIT = re.compile(r"/api/(?P<kind>model|dataset)s/(?P<id>[^/]+/[^/]+)/(?P<what>preupload|commit)/main")
BATCH = re.compile(r"/(?P<datasets>datasets/)?(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
SECRET = "signature-of-the-address"


@dataclass
class Uploads:
    """What was uploaded, who may upload, and which troubles the server has."""

    owners: dict[str, str] = field(default_factory=dict)
    """token -> owner in whose name it may write"""
    objects: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 -> content of each large file that has arrived"""
    arrived: list[str] = field(default_factory=list)
    """SHA-256 of each large file in the order of arrival; a file that is sent twice is here twice"""
    bodies: list[bytes] = field(default_factory=list)
    """body of every request, with the address before it"""
    break_after: int | None = None
    """number of large files after which every connection of an upload breaks"""
    status: int | None = None
    """status of the answer to every request that writes"""


def answer(uploads: Uploads, repositories: dict[str, Any], new: Any, endpoint: str, path: str, login: str, body: bytes):
    """Return the status and the JSON of the answer to a POST; None breaks the connection.

    Args:
        uploads: what was uploaded.
        repositories: all repositories, by ``models/`` or nothing and their id.
        new: makes an empty repository; takes whether it is private.
        endpoint: address of the server.
        path: path of the request.
        login: token of the request.
        body: its body.
    """
    owner = uploads.owners.get(login)
    if path == "/api/validate-yaml":
        return _validated(json.loads(body)["content"])
    if owner is None:
        return 401, {"error": "Invalid credentials in Authorization header"}
    if uploads.status is not None:
        return uploads.status, {"error": f"see {endpoint}/help?token={SECRET}&who={login}"}
    if path == "/api/repos/create":
        return _create(repositories, new, endpoint, owner, json.loads(body))
    if match := BATCH.fullmatch(path):
        return 200, {
            "transfer": "basic",
            "objects": [_action(uploads, endpoint, o) for o in json.loads(body)["objects"]],
        }
    match = COMMIT.fullmatch(path)
    assert match, path
    if match["id"].split("/")[0] != owner:
        return 403, {"error": "You don't have the rights required to do this."}
    repository = repositories[key(match["kind"], match["id"])]
    files = repository.revisions["main"]
    if match["what"] == "preupload":
        return 200, {"files": [_mode(files, file) for file in json.loads(body)["files"]]}
    for line in map(json.loads, body.splitlines()):
        _apply(files, uploads, line["key"], line["value"])
    repository.version += 1
    address = f"{endpoint}/{match['id']}/commit/{repository.sha('main')}"
    return 200, {"commitUrl": address, "commitOid": repository.sha("main"), "success": True}


def key(kind: str, id: str) -> str:
    """Return the key of a repository; datasets have no prefix."""
    return id if kind == "dataset" else f"models/{id}"


def _validated(content: str) -> tuple[int, dict[str, Any]]:
    """Refuse what the real hub refuses: a licence that it does not know."""
    wrong = re.search(r"^license: (?!apache-2\.0$|mit$|cc-by-4\.0$)(.*)$", content, re.MULTILINE)
    errors = [{"message": f'"license" must be one of [apache-2.0, mit, cc-by-4.0], not {wrong[1]}'}] if wrong else []
    return (400 if wrong else 200), {"errors": errors, "warnings": []}


def _create(repositories: dict[str, Any], new: Any, endpoint: str, owner: str, asked: dict[str, Any]):
    organization = asked.get("organization") or owner
    if organization != owner:
        return 403, {"error": "You don't have the rights to create a model under this namespace"}
    id, kind = f"{organization}/{asked['name']}", asked.get("type") or "model"
    place = f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{id}"
    if key(kind, id) in repositories:
        return 409, {"error": "You already created this repo", "url": place}
    repositories[key(kind, id)] = new(asked.get("visibility") == "private" or asked.get("private") is True)
    return 200, {"url": place, "name": id}


def _action(uploads: Uploads, endpoint: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Return where to send a large file; nowhere, if it has arrived before."""
    if asked["oid"] in uploads.objects:
        return asked
    return {**asked, "actions": {"upload": {"href": f"{endpoint}/lfs/{asked['oid']}?X-Signature={SECRET}"}}}


def _mode(files: dict[str, bytes], asked: dict[str, Any]) -> dict[str, Any]:
    path, large = asked["path"], asked["path"].endswith(LARGE_FILES)
    content = files.get(path)
    oid = None
    if content is not None:
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        oid = hashlib.sha256(content).hexdigest() if large else blob
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}


def _apply(files: dict[str, bytes], uploads: Uploads, operation: str, value: dict[str, Any]) -> None:
    """Change the files of a repository by one line of a commit."""
    if operation == "file":
        files[value["path"]] = base64.b64decode(value["content"])
    elif operation == "lfsFile":
        files[value["path"]] = uploads.objects[value["oid"]]
    elif operation == "deletedFile":
        del files[value["path"]]
    else:
        assert operation == "header", operation
