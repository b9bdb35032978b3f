"""Carry out what a flow asks for, in blocking code or under asyncio; no rule stands here."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import httpx2

from handinger.sdk import log, uploads
from handinger.sdk.exchange import Close, Effect, Flow, Read, Receive, Reply, Request, Send, Sleep

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go, and what each of them carries."""

    base_url: str
    headers: Mapping[str, str]

    def build(
        self,
        http: httpx2.Client | httpx2.AsyncClient,
        request: Request,
        files: Sequence[uploads.Field],
    ) -> httpx2.Request:
        """The request as the HTTP client sends it; the client itself is left as it is."""
        return http.build_request(
            request.method,
            self.base_url + request.path,
            params=dict(request.query) or None,
            json=None if files else request.body,
            data=request.form if files else None,
            files=files or None,
            headers={**self.headers, **request.headers},
            timeout=httpx2.USE_CLIENT_DEFAULT if request.timeout == "default" else request.timeout,
        )


class Driver:
    """Runs flows to their end, blocking."""

    def __init__(self, http: httpx2.Client, origin: Origin) -> None:
        self._http = http
        self._origin = origin

    def run(self, flow: Flow[T]) -> T:
        """The flow's result; its errors are raised here."""
        try:
            effect = next(flow)
            while True:
                try:
                    result = self._perform(effect)
                except httpx2.RequestError as error:
                    log.failed(error)
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            return cast("T", stop.value)
        finally:
            flow.close()

    def _perform(self, effect: Effect) -> object:
        match effect:
            case Send(request):
                with uploads.opened(request.uploads) as files:
                    built = self._origin.build(self._http, request, files)
                    sent_at = log.sent(built, request.body)
                    response = self._http.send(built, stream=True)
                log.answered(response, sent_at)
                return Reply(response, response.iter_bytes())
            case Read(reply):
                return reply.response.read()
            case Receive(reply):
                assert isinstance(reply.chunks, Iterator)
                return next(reply.chunks, None)
            case Close(reply):
                return reply.response.close()
            case Sleep(seconds):
                log.waiting(seconds)
                return time.sleep(seconds)


class AsyncDriver:
    """Runs flows to their end, under asyncio."""

    def __init__(self, http: httpx2.AsyncClient, origin: Origin) -> None:
        self._http = http
        self._origin = origin

    async def run(self, flow: Flow[T]) -> T:
        """The flow's result; its errors are raised here."""
        try:
            effect = next(flow)
            while True:
                try:
                    result = await self._perform(effect)
                except httpx2.RequestError as error:
                    log.failed(error)
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            return cast("T", stop.value)
        finally:
            flow.close()

    async def _perform(self, effect: Effect) -> object:
        match effect:
            case Send(request):
                with uploads.opened(request.uploads) as files:
                    built = self._origin.build(self._http, request, files)
                    sent_at = log.sent(built, request.body)
                    response = await self._http.send(built, stream=True)
                log.answered(response, sent_at)
                return Reply(response, response.aiter_bytes())
            case Read(reply):
                return await reply.response.aread()
            case Receive(reply):
                assert isinstance(reply.chunks, AsyncIterator)
                return await anext(reply.chunks, None)
            case Close(reply):
                return await reply.response.aclose()
            case Sleep(seconds):
                log.waiting(seconds)
                # Blocking programs do without it, and it takes a while to load.
                import asyncio

                return await asyncio.sleep(seconds)
