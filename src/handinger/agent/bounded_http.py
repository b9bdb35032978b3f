"""HTTP whose answers are left at a limit: for servers that nobody here vouches for."""

from collections.abc import AsyncGenerator, Mapping

import httpx2


class AnswerBound:
    """Each answer has at most so many bytes, and is sent as it is: what is packed may be a bomb."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.exceeded = False  # once an answer was

    @property
    def headers(self) -> Mapping[str, str]:
        """What a client has to send along."""
        return {"Accept-Encoding": "identity"}

    async def hold(self, response: httpx2.Response) -> None:
        """A hook of the client, for each answer before it is read. Raises DecodingError."""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise httpx2.DecodingError("the answer was compressed unasked")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream, self._bounded(response.stream))

    async def _bounded(self, stream: httpx2.AsyncByteStream) -> AsyncGenerator[bytes]:
        size = 0
        async for piece in stream:
            size += len(piece)
            if size > self._max_bytes:
                self.exceeded = True
                raise httpx2.ReadError(f"the answer is larger than {self._max_bytes} bytes")
            yield piece


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, pieces: AsyncGenerator[bytes]) -> None:
        self._stream = stream
        self._pieces = pieces

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        await self._stream.aclose()
