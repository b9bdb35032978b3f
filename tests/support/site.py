"""A web site on loopback for tests: pages by path, and which requests came in."""

import contextlib
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.threaded import ThreadedServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Reply:
    """One fixed answer."""

    body: bytes | str
    media_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        body = self.body.encode() if isinstance(self.body, str) else self.body
        request.send_response(self.status)
        if self.media_type:
            request.send_header("Content-Type", self.media_type)
        request.send_header("Content-Length", str(len(body)))
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


def redirect(location: str, status: int = 302) -> Reply:
    """An answer that sends the reader elsewhere."""
    return Reply("", status=status, headers={"Location": location})


class Site(ThreadedServer):
    """`pages` may be changed while it runs; `seen` are the targets that were asked for."""

    def __init__(self, pages: Mapping[str, Answer] | None = None, host: str = "127.0.0.1") -> None:
        self.pages: dict[str, Answer] = dict(pages or {})
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: object) -> None:
                """Tests look at `seen`."""

            def do_GET(self) -> None:
                site.seen.append(self.path)
                site.headers.append({name.lower(): value for name, value in self.headers.items()})
                size = int(self.headers.get("Content-Length") or 0)
                site.bodies.append(self.rfile.read(size))
                answer = site.pages.get(self.path) or site.pages.get(self.path.partition("?")[0])
                # The reader may have had enough before the end.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    (answer or Reply("nothing here", status=404))(self)

            do_POST = do_GET

        self._listen(Handler, host)
        self.port = self._server.server_port
        self.origin = f"http://{host}:{self.port}"

    def use_tls(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on; a reader that does not trust it is no error here."""
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._server.handle_error = lambda request, client_address: None
