"""HTTP for a scripted model: the OpenAI endpoints, and the control API beside them.

Written straight onto the event loop's transport: a benchmark pays for every microsecond spent here.
"""

import asyncio
import http.client
import time
from collections.abc import Mapping
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

import httptools
from pydantic import TypeAdapter, ValidationError

from tests.support.model_answers import Answer
from tests.support.model_scripts import (
    MODEL_ID,
    BrokenOff,
    Failure,
    HangUp,
    HangUpAfterChunks,
    HttpError,
    Malformed,
    Script,
    Stall,
    to_json,
)
from tests.support.model_state import Exchange, ScriptedModel

_SCRIPT = TypeAdapter(Script)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
_ANSWER_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_DONE = b"data: [DONE]\n\n"
_LAST_CHUNK = b"0\r\n\r\n"


class ModelConnection(asyncio.Protocol):
    """One client's connection. Requests come one after the other: pipelining is refused."""

    _transport: asyncio.Transport

    def __init__(self, model: ScriptedModel) -> None:
        self._model = model
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._received = False
        self._pipelined = False
        self._keep_alive = True

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.cut()
            return
        if self._pipelined:
            self.cut()
        elif self._received:
            self._received = False
            self._dispatch()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._exchange is not None:
            self._exchange.client_hung_up = True
            self._end(self._exchange)

    # The parser's callbacks. It hides what they raise, so they only take notes.

    def on_message_begin(self) -> None:
        self._pipelined = self._received or self._exchange is not None
        self._target = b""
        self._headers: list[bytes] = []
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append(b"%b:%b" % (name, value))

    def on_headers_complete(self) -> None:
        self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._received = True

    # What is asked.

    def _dispatch(self) -> None:
        method, body = self._parser.get_method(), b"".join(self._body)
        if self._target == b"/v1/chat/completions" and method == b"POST":
            self._complete(body)
        elif self._target == b"/v1/models" and method == b"GET":
            listed = {"id": MODEL_ID, "object": "model", "created": 0, "owned_by": "tests"}
            self._send(200, to_json({"object": "list", "data": [listed]}).encode())
        elif self._target.startswith(b"/control/"):
            self._send(*_control(self._model, method.decode(), self._target.decode(), body))
        else:
            self._send(404, _error_json("no such endpoint", status=404))

    def _complete(self, body: bytes) -> None:
        exchange = self._exchange = self._model.arrive(b"\n".join(self._headers), body)
        self._model.active.add(self)
        answer, failure = self._model.decide(exchange)
        if answer.step.waits_before or answer.step.waits_within:
            waiting = self._answer_slowly(exchange, answer, failure)
            self._task = asyncio.get_running_loop().create_task(waiting)
            self._task.add_done_callback(self._fail_loudly)
        else:
            self._answer_at_once(exchange, answer, failure)

    def _fail_loudly(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._transport.abort()
            raise error

    async def _answer_slowly(
        self, exchange: Exchange, answer: Answer, failure: Failure | None
    ) -> None:
        step = answer.step
        await asyncio.sleep(step.delay_s)
        if step.gate is not None:
            await self._model.gate(step.gate).wait()
        if not step.waits_within or isinstance(failure, HttpError | HangUp | Stall):
            self._answer_at_once(exchange, answer, failure)
        elif exchange.stream:
            await self._stream_slowly(exchange, answer, failure)
        else:
            await self._wait_as_a_stream_would(exchange, answer)
            self._answer_plainly(exchange, answer, failure)

    async def _wait_as_a_stream_would(self, exchange: Exchange, answer: Answer) -> None:
        events = answer.events(exchange.model, call_prefix=exchange.call_prefix)
        await asyncio.sleep(answer.step.chunk_delay_s * len(events.chunks))
        if answer.step.gate_after_chunks is not None:
            await self._model.gate(answer.step.gate_after_chunks[1]).wait()

    def _answer_at_once(self, exchange: Exchange, answer: Answer, failure: Failure | None) -> None:
        match failure:
            case None | HangUpAfterChunks() | Malformed():
                if exchange.stream:
                    self._stream_at_once(exchange, answer, failure)
                else:
                    self._answer_plainly(exchange, answer, failure)
            case HttpError():
                self._refuse(exchange, failure)
            case HangUp():
                self.cut()
            case Stall():
                pass  # The exchange stays open until the client hangs up, or a reset cuts it.

    # What is answered.

    def _refuse(self, exchange: Exchange, error: HttpError) -> None:
        if error.body is None or isinstance(error.body, str):
            message = error.body or f"scripted to fail with {error.status}"
            body = _error_json(message, status=error.status)
        else:
            body = to_json(error.body).encode()
        self._send_whole(exchange, _head(error.status, len(body), headers=error.headers) + body)

    def _answer_plainly(
        self, exchange: Exchange, answer: Answer, failure: BrokenOff | None
    ) -> None:
        body = b'{"id":"%b","object":"chat.completion","created":%d%b%b}' % (
            exchange.completion_id,
            time.time(),
            answer.message(exchange.model, call_prefix=exchange.call_prefix),
            answer.usage(exchange.request_bytes),
        )
        told = body if failure is None else body[: len(body) // 2]
        cut_short = isinstance(failure, HangUpAfterChunks)
        head = _ANSWER_HEAD % len(body if cut_short else told)
        self._send_whole(exchange, head + told, then_close=cut_short)

    def _stream_at_once(
        self, exchange: Exchange, answer: Answer, failure: BrokenOff | None
    ) -> None:
        stamp = _stamp(exchange)
        events = answer.events(exchange.model, call_prefix=exchange.call_prefix)
        if failure is None:
            told = stamp.join((b"", events.role, *events.chunks, events.finish))
            told += _after_finish(exchange, answer, stamp)
            end = _LAST_CHUNK
        else:
            chunks = events.chunks[: _chunks_before(failure)]
            told = stamp.join((b"", events.role, *chunks))
            end = _broken_end(failure, stamp)
        stream = _STREAM_HEAD + _http_chunk(told) + end
        self._send_whole(exchange, stream, then_close=isinstance(failure, HangUpAfterChunks))

    async def _stream_slowly(
        self, exchange: Exchange, answer: Answer, failure: BrokenOff | None
    ) -> None:
        step, stamp = answer.step, _stamp(exchange)
        events = answer.events(exchange.model, call_prefix=exchange.call_prefix)
        chunks = events.chunks if failure is None else events.chunks[: _chunks_before(failure)]
        chunks_before_gate, gate = step.gate_after_chunks or (None, "")
        exchange.first_byte_at = time.monotonic()
        self._transport.write(_STREAM_HEAD + _http_chunk(stamp + events.role))
        now = asyncio.get_running_loop().time
        due = now()
        for count, chunk in enumerate(chunks):
            if count == chunks_before_gate:
                await self._model.gate(gate).wait()
                due = now()
            due += step.chunk_delay_s
            await asyncio.sleep(due - now() if step.chunk_delay_s else 0)
            await self._writable.wait()
            self._transport.write(_http_chunk(stamp + chunk))
        if chunks_before_gate is not None and chunks_before_gate >= len(chunks):
            await self._model.gate(gate).wait()
        if failure is None:
            told = stamp + events.finish + _after_finish(exchange, answer, stamp)
            last = _http_chunk(told) + _LAST_CHUNK
        else:
            last = _broken_end(failure, stamp)
        self._send_last(exchange, last, then_close=isinstance(failure, HangUpAfterChunks))

    def _send_whole(self, exchange: Exchange, data: bytes, *, then_close: bool = False) -> None:
        exchange.first_byte_at = time.monotonic()
        self._send_last(exchange, data, then_close=then_close)

    def _send_last(self, exchange: Exchange, data: bytes, *, then_close: bool = False) -> None:
        # Ended first, then sent: whoever has read the answer finds it in the log as ended.
        self._end(exchange)
        self._transport.write(data)
        if then_close or not self._keep_alive:
            self._transport.close()

    def _end(self, exchange: Exchange) -> None:
        exchange.ended_at = time.monotonic()
        self._exchange = self._task = None
        self._model.active.discard(self)
        self._model.log.end(exchange)

    def cut(self) -> None:
        """End the connection at once, on our side."""
        if self._task is not None:
            self._task.cancel()
        if self._exchange is not None:
            self._end(self._exchange)
        self._transport.abort()

    def _send(self, status: int, body: bytes) -> None:
        self._transport.write(_head(status, len(body), headers={}) + body)
        if not self._keep_alive:
            self._transport.close()


def _head(status: int, length: int, *, headers: Mapping[str, str]) -> bytes:
    lines = {"content-type": "application/json", **headers, "content-length": str(length)}
    told = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    reason = http.client.responses.get(status, "Unknown")
    return f"HTTP/1.1 {status} {reason}\r\n{told}\r\n".encode("latin-1")


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _error_json(message: str, *, status: int) -> bytes:
    kind = "invalid_request_error" if status < 500 else "server_error"
    told = {"message": message, "type": kind, "param": None, "code": None}
    return to_json({"error": told}).encode()


def _stamp(exchange: Exchange) -> bytes:
    return b'data: {"id":"%b","object":"chat.completion.chunk","created":%d' % (
        exchange.completion_id,
        time.time(),
    )


def _after_finish(exchange: Exchange, answer: Answer, stamp: bytes) -> bytes:
    if not exchange.include_usage:
        return _DONE
    usage = answer.usage(exchange.request_bytes)
    model = to_json(exchange.model).encode()
    return b'%b,"model":%b,"choices":[],%b}\n\n%b' % (stamp, model, usage, _DONE)


def _chunks_before(failure: BrokenOff) -> int:
    return failure.hang_up_after_chunks if isinstance(failure, HangUpAfterChunks) else 1


def _broken_end(failure: BrokenOff, stamp: bytes) -> bytes:
    """How a broken stream ends: a hang-up leaves it open, malformed JSON arrives in good HTTP."""
    if isinstance(failure, HangUpAfterChunks):
        return b""
    return _http_chunk(stamp + b',"choices":[{"index":0,"delta":{"content":"\n\n') + _LAST_CHUNK


def _control(model: ScriptedModel, method: str, target: str, body: bytes) -> tuple[int, bytes]:
    url = urlsplit(target)
    query = parse_qs(url.query)
    script = query["script"][0] if "script" in query else None
    match (method, *map(unquote, url.path.split("/")[2:])):
        case ("PUT", "scripts", name):
            return _set_script(model, name, body)
        case ("POST", "gates", gate):
            model.gate(gate).set()
        case ("POST", "reset"):
            model.reset()
        case ("GET", "requests"):
            return 200, model.log.to_json(script, with_bodies="no_bodies" not in query)
        case ("GET", "counts"):
            arrived = model.log.count(script, ended=False)
            ended = model.log.count(script, ended=True)
            return 200, to_json({"arrived": arrived, "ended": ended}).encode()
        case _:
            return 404, _error_json("no such control endpoint", status=404)
    return 200, b"{}"


def _set_script(model: ScriptedModel, name: str, body: bytes) -> tuple[int, bytes]:
    try:
        script = _SCRIPT.validate_json(body)
    except ValidationError as error:
        return 422, _error_json(str(error), status=422)
    model.set_script(name, script)
    return 200, b"{}"
