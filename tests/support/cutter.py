"""A TCP proxy that cuts each connection after a random number of bytes, in either direction."""

import contextlib
import random
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self

# A connection that is cut says so at once (RST), as a router does that has forgotten it.
_AT_ONCE = struct.pack("ii", 1, 0)


class Cutter:
    """Stands before the server on `port`. The same seed draws the same lengths in the same order.

    Every `spare_every`-th connection is let be, so that whoever goes on comes to an end.
    """

    def __init__(self, port: int, *, seed: int, most_bytes: int, spare_every: int = 6) -> None:
        self.cuts = 0
        self._target = ("127.0.0.1", port)
        self._random = random.Random(seed)
        self._most_bytes = most_bytes
        self._spare_every = spare_every
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Closing alone would not wake the thread that waits for the next connection.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        number = 0
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                number += 1
                length = self._random.randint(0, self._most_bytes)
                left = None if number % self._spare_every == 0 else length
                threading.Thread(target=self._pass_on, args=(client, left), daemon=True).start()

    def _pass_on(self, client: socket.socket, left: int | None) -> None:
        """Both ways, until one side ends, or as many bytes as are left have passed."""
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            other = {client: server, server: client}
            while True:
                for source in select.select([client, server], [], [])[0]:
                    chunk = source.recv(65536 if left is None else max(min(left, 65536), 1))
                    if not chunk:
                        return
                    if left is not None:
                        chunk = chunk[:left]
                        left -= len(chunk)
                    other[source].sendall(chunk)
                    if left == 0:
                        self.cuts += 1
                        for side in (client, server):
                            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                        return
