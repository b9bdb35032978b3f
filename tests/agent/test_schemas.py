"""What a provider is sent is the same with remembered schemas, the first time and later."""

import json
from typing import Any

import httpx2
import pytest
from pydantic_ai import ModelHTTPError, ToolDefinition
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from handinger.agent import runner, schemas
from handinger.settings import load
from handinger.web.reading import Reader


class _Provider:
    """Remembers what it was sent, and refuses it."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        transport = httpx2.MockTransport(self._refuse)
        self.http_client = httpx2.AsyncClient(transport=transport, verify=False)

    def _refuse(self, request: httpx2.Request) -> httpx2.Response:
        self.sent.append(json.loads(request.content))
        return httpx2.Response(400, json={"error": {"message": "no"}})


def _model(kind: str, provider: _Provider) -> Model:
    if kind == "anthropic":
        anthropic = AnthropicProvider(api_key="k", http_client=provider.http_client)
        return AnthropicModel("claude-opus-5", provider=anthropic)
    openai = OpenAIProvider(
        base_url="http://model.invalid", api_key="k", http_client=provider.http_client
    )
    model = OpenAIChatModel if kind == "openai-chat" else OpenAIResponsesModel
    return model("gpt-5", provider=openai)


async def _request(model: Model, tools: list[ToolDefinition]) -> None:
    with pytest.raises(ModelHTTPError):
        await model.request(
            [ModelRequest(parts=[UserPromptPart("Hello")])],
            {"max_retries": 0},
            ModelRequestParameters(function_tools=tools),
        )


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["openai-chat", "openai", "anthropic"])
async def test_requests_are_the_same_with_remembered_schemas(kind: str) -> None:
    provider = _Provider()
    plain, remembering = _model(kind, provider), _model(kind, provider)
    schemas.remember(remembering)
    tools = [tool.tool_def for tool in runner.all_tools(load(), Reader(), with_commands=True)]
    changed = ToolDefinition(
        name=tools[0].name,
        parameters_json_schema={"type": "object", "properties": {"other": {"type": "integer"}}},
    )
    for told in (tools, tools, [changed], []):
        provider.sent.clear()
        await _request(plain, told)
        await _request(remembering, told)
        expected, sent = provider.sent
        assert len(expected.get("tools", [])) == len(told)
        assert sent == expected
