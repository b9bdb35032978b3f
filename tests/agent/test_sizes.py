"""The bound of a message's size covers all that the client of a provider makes of it."""

import pytest
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

from handinger.agent import sizes

# Beside such texts pydantic-ai tells the model whose they are.
TAGS = (
    "<system>{0}<pyai:context>{0}<pyai:tool_result>{0}<pyai:validation_errors>{0}"
    "<pyai:retry_feedback>{0}<pyai:conversation_summary>{0}<assistant_thinking>"
)
MODELS: list[Model] = [
    OpenAIChatModel("m", provider=OpenAIProvider(base_url="http://127.0.0.1:9/v1", api_key="x")),
    AnthropicModel("claude-sonnet-4-6", provider=AnthropicProvider(api_key="x")),
    AnthropicModel("claude-opus-4-8", provider=AnthropicProvider(api_key="x")),
    GoogleModel("gemini-2.5-pro", provider=GoogleProvider(api_key="x")),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.model_id)
@pytest.mark.parametrize("opener", ["<", "&lt;", "&#60;", "\uff1c", "\ufe64", "\uff06lt;"])
def test_the_notes_beside_a_text_that_looks_like_the_applications_are_bounded(
    model: Model, opener: str
):
    text = TAGS.format("").replace("<", opener)
    messages: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart(text)])]
    for number in range(20):
        call = ToolCallPart("look", "{}", tool_call_id=f"call-{number}" * 9)
        messages.append(ModelResponse(parts=[ThinkingPart(text), call]))
        result = ToolReturnPart("look", text, tool_call_id=call.tool_call_id)
        messages.append(ModelRequest(parts=[result]))
    prepared = model.prepare_messages(messages, ModelRequestParameters())
    sent = sum(
        sizes.text_bytes(str(getattr(part, "content", "")))
        for each in prepared
        for part in each.parts
    )
    assert sent > sum(len(text.encode()) for _ in range(41)) + 20 * 500, "Nothing was added."
    assert sent <= sum(sizes.content_bytes(message) for message in messages)
