"""What is sent without OpenAI's client walking through it is what the client itself would send."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from openai._utils import _transform
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition

from handinger.agent import schemas

_PIXEL = BinaryContent(b"\x89PNG\r\n\x1a\n", media_type="image/png")
_TOOL = ToolDefinition(
    name="look",
    description="Look at something.",
    parameters_json_schema={
        "type": "object",
        "properties": {"where": {"type": "string"}},
        "required": ["where"],
    },
)
_TURN: list[ModelMessage] = [
    ModelRequest([SystemPromptPart("Be kind."), UserPromptPart(["What is this?", _PIXEL])]),
    ModelResponse([TextPart("Let me see."), ToolCallPart("look", {"where": "there"}, "call_1")]),
    ModelRequest([ToolReturnPart("look", {"seen": [1, None, "a"]}, "call_1")]),
    ModelResponse([TextPart("A dot.")]),
]
_MODELS = pytest.mark.parametrize("make", [OpenAIChatModel, OpenAIResponsesModel])
_Make = Callable[..., Model]


async def sent(
    make: _Make, *, remember: bool, turns: int = 1, tools: bool = True
) -> dict[str, Any]:
    """The body of a request that is refused."""
    bodies = list[bytes]()

    def refuse(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.content)
        return httpx2.Response(400, json={"error": {"message": "no"}})

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(refuse))
    provider = OpenAIProvider(openai_client=AsyncOpenAI(api_key="none", http_client=client))
    model = make("any", provider=provider)
    if remember:
        schemas.remember(model)
    messages = [*_TURN * turns, ModelRequest([UserPromptPart("And now?")])]
    parameters = ModelRequestParameters(function_tools=[_TOOL] if tools else [])
    with pytest.raises(ModelHTTPError):
        await model.request(messages, None, parameters)
    (body,) = bodies
    return json.loads(body)


@_MODELS
@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.anyio
async def test_the_request_is_the_same(make: _Make, tools: bool) -> None:
    usual = await sent(make, remember=False, tools=tools)
    ours = await sent(make, remember=True, tools=tools)
    assert ours == usual
    assert "A dot." in json.dumps(ours)
    assert ("tools" in ours) == tools


@_MODELS
@pytest.mark.anyio
async def test_a_long_conversation_is_not_walked_through(
    make: _Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = 0
    usual = _transform._async_transform_recursive

    async def count(*args: Any, **options: Any) -> Any:
        nonlocal walked
        walked += 1
        return await usual(*args, **options)

    monkeypatch.setattr(_transform, "_async_transform_recursive", count)
    await sent(make, remember=True)
    short, walked = walked, 0
    await sent(make, remember=True, turns=50)
    assert short == walked
