"""A name server on loopback with records that a test gives it."""

import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class DnsServer:
    """Answers over UDP until the `with` block ends."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], list[str]] = {}
        # Names that are not answered for as if their own server were down.
        self.broken: set[str] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def address(self) -> str:
        """`host:port`."""
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    @property
    def port(self) -> int:
        return self._socket.getsockname()[1]

    def add(self, name: str, kind: str, *values: str) -> None:
        """Set the records of a name, in the notation of zone files; a text may be of any length."""
        self._records[name.lower(), kind] = [_quoted(v) if kind == "TXT" else v for v in values]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A datagram to ourselves ends the wait for the next one.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, sender = self._socket.recvfrom(4096)
            if not data:
                return
            self._socket.sendto(self._answer(dns.message.from_wire(data)).to_wire(), sender)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        if name in self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        values: Sequence[str] = self._records.get((name, kind), ())
        if values:
            response.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", kind, values))
        elif not any(known == name for known, _ in self._records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response


def _quoted(text: str) -> str:
    pieces = [text[start : start + 250] for start in range(0, len(text), 250)]
    return " ".join(f'"{piece}"' for piece in pieces or [""])
