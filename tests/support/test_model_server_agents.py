"""The scripted model server as agents meet it: through pydantic-ai, as the product asks."""

import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent, ModelAPIError, ModelHTTPError, ModelRequest, ModelRequestNode
from pydantic_ai.messages import (
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition

from tests.support.model_server import (
    Failure,
    HangUp,
    HangUpAfterChunks,
    HttpError,
    Malformed,
    Step,
    ToolCall,
    Usage,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def model(client: AsyncOpenAI) -> OpenAIChatModel:
    return OpenAIChatModel("scripted", provider=OpenAIProvider(openai_client=client))


def weather_agent(model: OpenAIChatModel) -> Agent[None, str]:
    agent = Agent(model)

    @agent.tool_plain
    def weather(city: str) -> str:
        return f"rain in {city}"

    return agent


TWO_STEPS = [
    Step(
        reasoning=["Let me ", "look."],
        text=["Look", "ing."],
        tool_calls=[ToolCall("weather", {"city": "Bern"}), ToolCall("weather", {"city": "Thun"})],
        usage=Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=40, reasoning_tokens=5),
    ),
    Step(text=["It ", "rains."], usage=Usage(prompt_tokens=150, completion_tokens=4)),
]


async def test_an_agent_runs_a_script_to_its_end(server, model):
    server.script("s", TWO_STEPS)
    result = await weather_agent(model).run("What is the weather? [[script:s]]")
    assert result.output == "It rains."
    usage = result.usage
    assert (usage.input_tokens, usage.output_tokens, usage.requests) == (250, 24, 2)
    assert (usage.cache_read_tokens, usage.tool_calls) == (40, 2)
    _, first, results, _ = result.all_messages()
    assert isinstance(first, ModelResponse)
    assert [type(part) for part in first.parts] == [
        ThinkingPart,
        TextPart,
        ToolCallPart,
        ToolCallPart,
    ]
    assert first.text == "Looking."
    returned = [part.content for part in results.parts if isinstance(part, ToolReturnPart)]
    assert returned == ["rain in Bern", "rain in Thun"]
    assert [request.stream for request in server.requests("s")] == [False, False]
    assert server.requests("s")[0].tool_names == ["weather"]


async def test_an_agent_that_streams_gets_the_same(server, model):
    server.script("s", TWO_STEPS)
    told: list[str] = []
    async with weather_agent(model).iter("[[script:s]]") as run:
        async for node in run:
            if isinstance(node, ModelRequestNode):
                async with node.stream(run.ctx) as events:
                    async for event in events:
                        match event:
                            case PartStartEvent(part=TextPart(content=text)):
                                told.append(text)
                            case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                                told.append(text)
                            case _:
                                pass
    assert told == ["Look", "ing.", "It ", "rains."]
    assert run.result is not None
    assert run.result.output == "It rains."
    assert (run.usage.input_tokens, run.usage.output_tokens) == (250, 24)
    assert [request.stream for request in server.requests("s")] == [True, True]
    first = run.result.all_messages()[1]
    assert isinstance(first, ModelResponse)
    assert [part.args_as_dict() for part in first.tool_calls] == [
        {"city": "Bern"},
        {"city": "Thun"},
    ]


async def test_the_model_is_told_of_invalid_arguments_and_goes_on(server, model):
    server.script("s", [Step(tool_calls=[ToolCall("weather", '{"city": ')]), Step(text="I see.")])
    assert (await weather_agent(model).run("[[script:s]]")).output == "I see."
    (retry,) = [m for m in server.requests("s")[1].messages if m["role"] == "tool"]
    assert "Invalid JSON" in str(retry["content"])


async def test_a_last_call_that_forbids_tools_concludes(server, model):
    server.script("s", TWO_STEPS, after_last="repeat")
    asked, called, results, _ = (await weather_agent(model).run("[[script:s]]")).all_messages()
    assert isinstance(results, ModelRequest)
    noted = ModelRequest(parts=[*results.parts, UserPromptPart("Conclude now.")])
    parameters = ModelRequestParameters(function_tools=[ToolDefinition(name="weather")])
    answer = await model.request([asked, called, noted], {"tool_choice": "none"}, parameters)
    assert answer.text == "Concluding: 2 tool results so far."
    request = server.requests("s")[-1]
    assert (request.step, request.tool_choice, request.served) == (1, "none", "concluding")


FAILURES: list[tuple[Failure, type[Exception]]] = [
    (HttpError(429), ModelHTTPError),
    (HttpError(500), ModelHTTPError),
    (HangUp(), ModelAPIError),
    (HangUpAfterChunks(1), ModelAPIError),
    (Malformed(), ModelAPIError),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("failure", "error"), FAILURES)
async def test_each_failure_reaches_the_agent_as_an_error(server, model, failure, error, streamed):
    server.script("s", [Step(text=["a", "b"], attempts=[failure])])
    agent = weather_agent(model)

    async def run() -> str:
        if not streamed:
            return (await agent.run("[[script:s]]")).output
        async with agent.run_stream("[[script:s]]") as answer:
            return await answer.get_output()

    with pytest.raises(error):
        await run()
    assert await run() == "ab"


async def test_the_client_retries_by_itself_after_the_time_it_is_told(server, model):
    server.script("s", [Step(text="fine", attempts=[HttpError(429, headers={"Retry-After": "1"})])])
    result = await weather_agent(model).run("[[script:s]]", model_settings={"max_retries": 1})
    assert result.output == "fine"
    first, second = server.requests("s")
    assert second.at - first.ended_at >= 0.9
