"""A live report: an HTTP server on loopback that knows three paths, and reads the run again as it goes on.

A request chooses among these and nothing else: no path of it reaches a file. Its Host must be loopback's own, so that
a page from elsewhere cannot have its own name lead here (DNS rebinding) and read the answer.
"""

import gzip
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lfs.report_page import as_json, page
from lfs.report_sections import Section
from search_space.errors import UserError, first_line

LOOPBACK = "127.0.0.1"
LOOK_S = 1.0
"""Least time between two looks at the run, however many pages are open."""
IDLE_S = 30.0
"""A connection that says nothing for so long is closed."""


@dataclass(frozen=True)
class _Made:
    token: str
    count: int
    sections: Sequence[Section]

    @property
    def version(self) -> str:
        """No two reports have the same, those of an earlier server included: its pages may still be open."""
        return f"{self.token}-{self.count}"


class Live:
    """The report as it is now.

    Args:
        make: the sections of the report.
        title: of the page.
    """

    def __init__(self, make: Callable[[], Sequence[Section]], title: str) -> None:
        self._make, self.title = make, title
        self._lock = threading.Lock()
        self._looked = 0.0
        self._made = _Made(secrets.token_hex(8), 1, make())
        self.trouble = ""

    def now(self) -> _Made:
        """The latest report, made anew if it is older than `LOOK_S`; the last good one where it cannot be."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_S:
                try:
                    sections = self._make()
                    self.trouble = ""
                    if sections != self._made.sections:
                        self._made = _Made(self._made.token, self._made.count + 1, sections)
                except Exception as error:
                    self.trouble = first_line(error)
                self._looked = time.monotonic()
            return self._made

    def page(self) -> str:
        """The page as a browser loads it."""
        return page(self.title, self.now().sections, made="live", live=True)

    def changes(self, after: str) -> dict[str, Any]:
        """What a page that has the version `after` does not have yet."""
        made = self.now()
        status = self.trouble or f"as of {datetime.now():%H:%M:%S}"
        news = {} if after == made.version else {"sections": as_json(made.sections)}
        return {"version": made.version, "status": status, **news}


class ReportServer(ThreadingHTTPServer):
    """Serves a live report on loopback.

    Args:
        port: 0: any that is free.
    Raises:
        UserError: the port is taken, or may not be used.
    """

    daemon_threads = True

    def __init__(self, live: Live, port: int) -> None:
        self.live = live
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            law = f"port {port} on {LOOPBACK} cannot be used: {error.strerror or error}"
            raise UserError(f"{law}; choose another --port, or 0 for any that is free") from None

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lfs", ""
    timeout = IDLE_S

    def do_GET(self) -> None:
        """One of the known paths."""
        path, _, query = self.path.partition("?")
        if self.headers.get_all("Host", []) not in self._own_names():
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"this page is for this machine alone\n")
        elif path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.server.live.page().encode())
        elif path == "/report.json":
            changes = json.dumps(self.server.live.changes(query.removeprefix("after=")), allow_nan=False)
            self._answer(HTTPStatus.OK, "application/json", changes.encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there are / and /report.json\n")

    def _own_names(self) -> list[list[str]]:
        port = self.server.server_port
        return [[f"{name}:{port}"] for name in (LOOPBACK, "localhost")] + [[LOOPBACK], ["localhost"]] * (port == 80)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        packed = "gzip" in self.headers.get("Accept-Encoding", "") and len(body) > 1000
        body = gzip.compress(body, 1) if packed else body
        self.send_response(status)
        headers = {
            "Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin", **({"Content-Encoding": "gzip"} if packed else {}),
        }  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""
