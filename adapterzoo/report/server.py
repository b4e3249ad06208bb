"""Serve the page of an output folder to a browser on this machine, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from adapterzoo.report.live import LiveFolder

ADDRESS = "127.0.0.1"
TIMEOUT_SECONDS = 30
# No frame, no other origin and no cache may have the page. Its own policy, in the page, allows its scripts by digest.
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class PageServer(ThreadingHTTPServer):
    """A server on the loopback address for the page of one folder, which it only reads."""

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, folder: LiveFolder, port: int = 0) -> None:
        """Begin to listen.

        Args:
            folder: what the page shows.
            port: a free port; any if it is 0.

        Raises:
            OSError: the port is not free.
        """
        self.folder = folder
        super().__init__((ADDRESS, port), _Handler)

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def hosts(self) -> set[str]:
        """Return what a browser on this machine may send as the host; another name could be rebound to it."""
        return {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that closed the connection."""


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "adapterzoo", ""
    timeout = TIMEOUT_SECONDS

    def do_GET(self) -> None:
        """Send the page, or the state that it asks for."""
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts()]:
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "This host is not served here.\n")
            return
        address = urlsplit(self.path)
        if address.path == "/":
            self._send(HTTPStatus.OK, "text/html", self.server.folder.page())
        elif address.path == "/state.json":
            have = parse_qs(address.query).get("have", [""])[0]
            self._send(HTTPStatus.OK, "application/json", json.dumps(self.server.folder.state(have)))
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "There is only one page here.\n")

    def do_HEAD(self) -> None:
        """Send the headers of the same."""
        self.do_GET()

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Refuse every other method of HTTP."""
        if name.startswith("do_"):
            return self._refuse
        raise AttributeError(name)

    def _refuse(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", "The page can only be read.\n", Allow="GET, HEAD")

    def _send(self, status: HTTPStatus, kind: str, text: str, **more: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {**HEADERS, **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *values: Any) -> None:
        """Print nothing for a request."""
