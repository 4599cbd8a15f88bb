"""Serves a WSGI app on loopback from a thread: HTTP/1.1 with keep-alive, one thread for each connection.

Flask's own development server closes every connection after one answer. Real services do not, and faults of a client's
connection pool would stay hidden.
"""

from __future__ import annotations

import io
import os
import socket
import socketserver
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

from werkzeug.serving import DechunkedInput

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

BODY_LIMIT = 16 * 1024 * 1024  # bytes; more than either service accepts


class Dropped(ConnectionError):
    """An app raises this to reset the connection instead of answering."""


class Server:
    """Serves `app` at 127.0.0.1:`port` (0 picks a free one) until `close()`.

    Raises OSError when the port is taken.
    """

    def __init__(self, app: WSGIApplication, port: int = 0) -> None:
        self._server = _Listener(app, port)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening and cuts the open connections. A second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
        self._server.cut_connections()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, app: WSGIApplication, port: int) -> None:
        self.app = app
        self._open: dict[socket.socket, threading.Thread] = {}
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open_lock:
                self._open.pop(request, None)

    def cut_connections(self) -> None:
        with self._open_lock:
            connections = dict(self._open)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side has closed it
        for thread in connections.values():
            thread.join(timeout=1)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a dropped connection is no fault here
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise the second answer on a connection waits 40 ms for a delayed ACK
    wbufsize = 64 * 1024
    timeout = 120  # seconds an idle connection is kept

    def answer(self) -> None:
        """Runs the app for one request and sends its answer."""
        self.wfile.flush()  # "100 Continue" may be waiting there
        environ = self._environ()
        if environ is None:
            self.close_connection = True
            return
        try:
            status, headers, body = run_app(cast(_Listener, self.server).app, environ)
        except Dropped:
            self.close_connection = True
            _reset(self.connection)
            return
        self._send(status, headers, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def _send(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        code, _, reason = status.partition(" ")
        self.send_response_only(int(code), reason)
        names = {name.lower() for name, _ in headers}
        usual = [("Server", self.version_string()), ("Date", self.date_time_string())]
        for name, value in [*(one for one in usual if one[0].lower() not in names), *headers]:
            self.send_header(name, value)
        if "content-length" not in names and code not in ("204", "304"):
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _environ(self) -> dict[str, Any] | None:
        """The request for a WSGI app, with its whole body: the next request follows it. None when it is too long."""
        body = self._body()
        if body is None:
            return None
        path, _, query = self.path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(cast(_Listener, self.server).server_address[1]),
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.client_address[0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.headers.items():
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
        environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ.pop("HTTP_CONTENT_LENGTH", None)
        environ["CONTENT_LENGTH"] = str(len(body))
        return environ

    def _body(self) -> bytes | None:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return DechunkedInput(cast(IO[bytes], self.rfile)).read(BODY_LIMIT)
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length) if 0 <= length <= BODY_LIMIT else None

    def version_string(self) -> str:
        return "sandbox"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the fakes keep their calls in a list."""


def _reset(connection: socket.socket) -> None:
    """Closes with RST: with SO_LINGER at zero the kernel sends no FIN and drops unsent bytes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


def run_app(app: WSGIApplication, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
    """The answer of `app` to `environ`: status line, headers and the whole body."""
    answered: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        answered.append((status, headers))

    chunks = app(environ, start_response)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, headers = answered[-1]
    return status, headers, body
