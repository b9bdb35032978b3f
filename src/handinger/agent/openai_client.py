"""OpenAI's client, which walks through the tools of every request, kept from doing that.

It looks for values that it has to convert; in what describes tools there is none.
"""

from typing import Any, cast

from openai import AsyncOpenAI
from openai.resources.chat import AsyncChat
from openai.resources.chat.completions import AsyncCompletions
from openai.resources.responses import AsyncResponses
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel


def send_tools_as_they_are(model: Model) -> None:
    """Change the client of a model that uses this library; of others nothing."""
    if not isinstance(model, OpenAIChatModel | OpenAIResponsesModel):
        return
    if type(model.client) is AsyncOpenAI:
        # pydantic-ai makes a copy of its client for each request, which is of the same class.
        model.client.__class__ = _Client


class _Completions(AsyncCompletions):
    async def create(self, **request: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] # As it is called, by name.
        return cast(Any, await super().create(**_with_tools_as_they_are(request)))


class _Responses(AsyncResponses):
    async def create(self, **request: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] # As it is called, by name.
        return cast(Any, await super().create(**_with_tools_as_they_are(request)))


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


def _with_tools_as_they_are(request: dict[str, Any]) -> dict[str, Any]:
    """What is in `extra_body` is sent as it is."""
    if not isinstance(request.get("tools"), list):
        return request  # There are none.
    tools = request.pop("tools")
    return {**request, "extra_body": {**(request.get("extra_body") or {}), "tools": tools}}
