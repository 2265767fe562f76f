"""The page over HTTP on 127.0.0.1: three files, and one address that answers JSON with JSON.

Other sites that the browser has open cannot use it: a request must name this host, and JSON from another origin is refused.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
_LARGEST_REQUEST, _DIGITS = 4096, 9  # bytes; digits of their number
_PAGE = Path(__file__).with_name("page")
_FILES = {
    "/": ("demo.html", "text/html; charset=utf-8"),
    "/demo.css": ("demo.css", "text/css; charset=utf-8"),
    "/demo.js": ("demo.js", "text/javascript; charset=utf-8"),
}
_POLICY = "default-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

Answer = Callable[[Any], dict[str, Any]]


class DemoServer(ThreadingHTTPServer):
    """Serves `offers` (JSON) at /offers, and `answer(request)` at /sample, one at a time; its ValueError is the page's message.

    port: 0 takes a free one. OSError where the port is in use.
    """

    daemon_threads = True  # Ctrl-C does not wait for a drawing

    def __init__(self, port: int, offers: dict[str, Any], answer: Answer) -> None:
        super().__init__((HOST, port), _Handler)
        self.offers, self._answer, self._one_at_a_time = offers, answer, threading.Lock()
        self._newest = 0

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(f"{name}:{self.server_port}" for name in (HOST, "localhost"))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print one line; nothing if the browser closed the connection."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            print(f"diffusion-lab demo: {type(error).__name__}: {error}", file=sys.stderr)

    def answer(self, request: Any) -> dict[str, Any] | None:
        """None for a request that a newer one has replaced while it waited."""
        number = self._newest = self._newest + 1
        with self._one_at_a_time:
            return self._answer(request) if number == self._newest else None


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer

    def do_GET(self) -> None:
        if not self._is_from_here():
            return
        if self.path == "/offers":
            self._send_json(self.server.offers)
        elif self.path in _FILES:
            name, kind = _FILES[self.path]
            self._send(HTTPStatus.OK, kind, (_PAGE / name).read_bytes())
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        if not self._is_from_here():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/sample" or self.headers.get("Content-Type") != "application/json":
            self.send_error(HTTPStatus.NOT_FOUND)
        elif not (length.isdecimal() and len(length) < _DIGITS and int(length) <= _LARGEST_REQUEST):
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        try:
            answer = self.server.answer(json.loads(body))
        except (ValueError, RecursionError) as error:
            self._send_json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except Exception as error:
            sentence = f"this cannot be drawn: {type(error).__name__}: {' '.join(str(error).split())}"
            print(f"diffusion-lab demo: {sentence}", file=sys.stderr)
            self._send_json({"error": sentence}, HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._send_json({"replaced": True} if answer is None else answer)

    def _is_from_here(self) -> bool:
        """Whether the browser meant this server, and the request is not made by another site's page."""
        origin = self.headers.get("Origin")
        own = {f"http://{host}" for host in self.server.hosts}
        if self.headers.get("Host") in self.server.hosts and (origin is None or origin in own):
            return True
        self.send_error(HTTPStatus.FORBIDDEN)
        return False

    def _send_json(self, content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, "application/json", json.dumps(content, allow_nan=False).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", _POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """The terminal shows the address, not every request."""
