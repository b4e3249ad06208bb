"""A local server that answers huggingface_hub and datasets like the real hub."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from hub_uploads import Uploads, answer, key

# Like the real hub, it redirects requests for small files to a cache on the same host, and for large ones to another.
ADDRESSES = [
    re.compile(
        r"/api/(?P<kind>model|dataset)s/(?P<id>[^/]+/[^/]+)"
        r"(/(?P<what>revision|tree)/(?P<revision>[^/]+)(?P<folder>/.+)?)?"
    ),
    re.compile(r"/((?P<kind>dataset)s/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
    re.compile(
        r"/(api/resolve-cache|cdn)/(?P<kind>model|dataset)s/(?P<id>[^/]+/[^/]+)/(?P<revision>[^/]+)/(?P<path>.+)"
    ),
]
LARGE = 100_000  # bytes


@dataclass
class Repository:
    """A dataset or a model on the hub."""

    revisions: dict[str, dict[str, bytes]]
    """branch or tag -> path -> content"""
    gated: tuple[str, ...] = ()
    """endings of the paths that need the owners' permission"""
    private: bool = False
    version: int = 0
    """number of commits"""

    def commits(self) -> dict[str, str]:
        return {self.sha(name): name for name in self.revisions}

    def sha(self, name: str) -> str:
        return hashlib.sha1(f"{name} {sorted(self.revisions)} {self.version}".encode()).hexdigest()


@dataclass
class Hub:
    """The repositories of a server, and a record of its requests."""

    repositories: dict[str, Repository]
    """id of a dataset, or models/ and the id of a model -> its files"""
    endpoint: str = ""
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """HTTP method, path and number of bytes sent of each request"""
    uploads: Uploads = field(default_factory=Uploads)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fetched(self, dataset: str) -> int:
        """Return how many bytes of a dataset's files were sent."""
        return sum(count for method, path, count in self.requests if method == "GET" and f"datasets/{dataset}/" in path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        match = next(filter(None, (address.fullmatch(path) for address in ADDRESSES)), None)
        asked = {name: unquote(value) for name, value in match.groupdict().items() if value} if match else {}
        login = self.headers.get("authorization")
        if login == "Bearer bad":
            return self.send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        kind = asked.get("kind", "model")
        repository = self.hub.repositories.get(key(kind, asked.get("id", "")))
        # Requests to the other host have no login; the address alone, which the real hub signs, lets them in.
        may_read = path.startswith("/cdn/") or (login or "")[7:] in self.hub.uploads.owners
        if repository is None or (repository.private and not may_read):
            # The real hub says this as well, because it does not tell whether a private repository exists.
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        revision = asked.get("revision", "main")
        commits = repository.commits()
        if (commit := next((sha for sha, name in commits.items() if revision in (sha, name)), None)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.revisions[commits[commit]]
        if "path" not in asked:
            return self.send_json(asked, commit, files)
        if asked["path"].endswith(repository.gated):
            who = "you are not in the authorized list." if login else "you must be authenticated. Please log in."
            return self.refuse(403 if login else 401, "GatedRepo", f"Access to {asked['id']} is restricted and {who}")
        if asked["path"] not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found", commit)
        self.send_file(f"{kind}s/{asked['id']}/{commit}/{asked['path']}", "/resolve/" in path, commit, files)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        path, login = urlsplit(self.path).path, self.headers.get("authorization", "")[7:]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        uploads = self.hub.uploads
        uploads.bodies.append(self.path.encode() + b" " + body)
        status, found = answer(
            uploads,
            self.hub.repositories,
            lambda private: Repository({"main": {".gitattributes": b""}}, private=private),
            self.hub.endpoint,
            path,
            login,
            body,
        )
        self.send(status, {"Content-Type": "application/json"}, json.dumps(found).encode())

    def do_PUT(self) -> None:
        uploads, oid = self.hub.uploads, urlsplit(self.path).path.rpartition("/")[2]
        with self.hub.lock:
            if uploads.break_after is not None and len(uploads.arrived) >= uploads.break_after:
                self.close_connection = True
                self.hub.requests.append(("BROKEN", self.path, 0))
                return
            content = self.rfile.read(int(self.headers["Content-Length"]))
            assert hashlib.sha256(content).hexdigest() == oid
            uploads.bodies.append(self.path.encode() + b" " + content)
            uploads.objects[oid] = content
            uploads.arrived.append(oid)
        self.send(200, {})

    def send_json(self, asked: dict[str, str], commit: str, files: dict[str, bytes]) -> None:
        private = self.hub.repositories[key(asked.get("kind", "model"), asked["id"])].private
        siblings = [{"rfilename": path} for path in sorted(files)]
        answer: object = {"id": asked["id"], "sha": commit, "private": private, "siblings": siblings}
        if asked.get("what") == "tree":
            inside = asked.get("folder", "").lstrip("/")
            paths = [PurePosixPath(path) for path in sorted(files) if PurePosixPath(path).is_relative_to(inside)]
            if not paths:
                return self.refuse(404, "EntryNotFound", f"{inside} does not exist", commit)
            folders = {parent for path in paths for parent in path.parents if PurePosixPath(inside) in parent.parents}
            deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
            answer = [
                {"type": "file" if path in paths else "directory", "oid": "0" * 40, "path": str(path)}
                | ({"size": len(files[str(path)])} if path in paths else {})
                for path in [*paths, *sorted(folders)]
                if deep or path.parent == PurePosixPath(inside)
            ]
        self.send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def send_file(self, place: str, redirected: bool, commit: str, files: dict[str, bytes]) -> None:
        content = files[place.split("/", 4)[4]]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if redirected and len(content) < LARGE:
            return self.send(307, {**headers, "Location": f"/api/resolve-cache/{place}"})
        if redirected:
            elsewhere = self.hub.endpoint.replace("127.0.0.1", "localhost") + f"/cdn/{place}"
            linked = {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(content)), "Location": elsewhere}
            return self.send(302, headers | linked)
        if (wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))) is None:
            return self.send(200, headers, content)
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        self.send(206, headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"}, content[start : end + 1])

    def refuse(self, status: int, code: str, message: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.send(status, headers | ({"X-Repo-Commit": commit} if commit else {}), message.encode())

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        sent = 0
        try:  # send small pieces, to know how much a client read before it closed the connection
            while self.command != "HEAD" and sent < len(body):
                sent += self.wfile.write(body[sent : sent + 65536])
        except OSError:
            self.close_connection = True
        self.hub.requests.append((self.command, unquote(self.path), sent))


@contextmanager
def serving(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Run a server with these repositories, and yield its record of requests."""
    hub = Hub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
