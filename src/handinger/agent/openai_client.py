"""OpenAI's client, which walks through every request, kept from doing that.

It looks for values that it has to convert, and tries each kind of message on each message: half a
millisecond for every message of a conversation. Neither messages nor tools have any such value.
"""

from typing import Any, cast

from openai import AsyncOpenAI
from openai.resources.chat import AsyncChat
from openai.resources.chat.completions import AsyncCompletions
from openai.resources.responses import AsyncResponses
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel


def send_as_it_is(model: Model) -> None:
    """Change the client of a model that uses this library; of others nothing."""
    if not isinstance(model, OpenAIChatModel | OpenAIResponsesModel):
        return
    if type(model.client) is AsyncOpenAI:
        model.client.__class__ = _Client


class _Completions(AsyncCompletions):
    async def create(self, **request: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] # As it is called, by name.
        return cast(Any, await super().create(**_as_it_is(request, "messages")))


class _Responses(AsyncResponses):
    async def create(self, **request: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] # As it is called, by name.
        return cast(Any, await super().create(**_as_it_is(request, "input")))


class _Chat(AsyncChat):
    @property
    def completions(self) -> AsyncCompletions:
        return _Completions(self._client)


class _Client(AsyncOpenAI):
    @property
    def chat(self) -> AsyncChat:
        return _Chat(self)

    @property
    def responses(self) -> AsyncResponses:
        return _Responses(self)


def _as_it_is(request: dict[str, Any], conversation: str) -> dict[str, Any]:
    """What is in `extra_body` is sent as it is, in the place of what is given by name."""
    large: dict[str, Any] = {
        name: value
        for name in (conversation, "tools")
        # Else there is none, which is said by a value of the client's own.
        if isinstance(value := request.get(name), list)
    }
    emptied = {name: list[Any]() for name in large}
    return {**request, **emptied, "extra_body": {**(request.get("extra_body") or {}), **large}}
