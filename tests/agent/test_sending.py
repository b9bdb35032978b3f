"""Whether a failed call may have been billed, by what the clients of the providers really raise."""

import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from pydantic_ai import direct
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.groq import GroqModel
from pydantic_ai.models.mistral import MistralModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.groq import GroqProvider
from pydantic_ai.providers.mistral import MistralProvider
from pydantic_ai.providers.openai import OpenAIProvider
from tests.support.site import Reply, Site

from handinger import settings
from handinger.agent import model as models

pytestmark = pytest.mark.anyio

Make = Callable[[str, str], Model]  # of a URL and a key


def _openai_chat(url: str, key: str) -> Model:
    return OpenAIChatModel("m", provider=OpenAIProvider(base_url=url, api_key=key))


def _openai(url: str, key: str) -> Model:
    return OpenAIResponsesModel("m", provider=OpenAIProvider(base_url=url, api_key=key))


def _anthropic(url: str, key: str) -> Model:
    return AnthropicModel("m", provider=AnthropicProvider(base_url=url, api_key=key))


def _google(url: str, key: str) -> Model:
    return GoogleModel("m", provider=GoogleProvider(base_url=url, api_key=key))


def _groq(url: str, key: str) -> Model:
    return GroqModel("m", provider=GroqProvider(base_url=url, api_key=key))


def _mistral(url: str, key: str) -> Model:
    return MistralModel("m", provider=MistralProvider(base_url=url, api_key=key))


CLIENTS = [_openai_chat, _openai, _anthropic, _google, _groq, _mistral]


def _hang_up(request: BaseHTTPRequestHandler) -> None:
    """The request has been read, and is never answered."""


class _AnyPath(dict[str, Callable[[BaseHTTPRequestHandler], None]]):
    """One answer, whatever a client asks for."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        super().__init__()
        self.answer = answer

    def get(self, key: object, default: object = None) -> Callable[[BaseHTTPRequestHandler], None]:
        return self.answer


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


async def _fail(model: Model, *, timeout_s: float = 10) -> Exception:
    how = models.request_settings(settings.load(model="openai:m", model_timeout_s=timeout_s), model)
    with pytest.raises(Exception) as caught:  # What they raise is the question.
        await direct.model_request(model, [ModelRequest.user_text_prompt("Hi")], model_settings=how)
    return caught.value


def _closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize("make", CLIENTS)
async def test_a_provider_that_cannot_be_reached_bills_nothing(
    make: Make, site: Site, monkeypatch: pytest.MonkeyPatch
):
    closed = make(f"http://127.0.0.1:{_closed_port()}", "key")
    no_tls = make(f"https://127.0.0.1:{site.port}", "key")
    unknown = make("http://models.example.com", "key")
    for model in (closed, no_tls):
        error = await _fail(model)
        assert not models.may_be_billed(error), error

    def fail(*address: object, **how: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = await _fail(unknown)
    assert not models.may_be_billed(error), error
    assert site.seen == []


@pytest.mark.parametrize("make", [_openai_chat, _anthropic, _google])
@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://127.0.0.1:{port}", "key\nwith a line"),
        ("http://127.0.0.1:{port}", "key\u2011with a dash"),
        ("models.example.com", "key"),
    ],
    ids=["key with a line break", "key that is not ASCII", "address without http"],
)
async def test_what_is_configured_so_that_it_cannot_be_sent_bills_nothing(
    make: Make, site: Site, url: str, key: str
):
    error = await _fail(make(url.format(port=site.port), key))
    assert not models.may_be_billed(error), repr(error)
    # One client sends such a key as it is; a provider knows no such key.
    assert site.seen == [] or isinstance(error, ModelHTTPError)


@pytest.mark.parametrize("make", CLIENTS)
async def test_a_provider_that_read_the_request_and_hangs_up_may_bill_it(make: Make, site: Site):
    site.pages = _AnyPath(_hang_up)
    error = await _fail(make(site.origin, "key"))
    assert len(site.seen) == 1
    assert models.may_be_billed(error), error


@pytest.mark.parametrize("make", CLIENTS)
async def test_a_provider_that_refuses_the_request_bills_nothing(make: Make, site: Site):
    site.pages = _AnyPath(Reply('{"error": {"message": "no"}}', "application/json", status=429))
    error = await _fail(make(site.origin, "key"))
    assert len(site.seen) == 1
    assert not models.may_be_billed(error), error


@pytest.mark.parametrize("make", CLIENTS)
async def test_half_an_answer_may_be_billed(make: Make, site: Site):
    site.pages = _AnyPath(Reply('{"id": "x", "choi', "application/json"))
    error = await _fail(make(site.origin, "key"))
    assert models.may_be_billed(error), error


@pytest.mark.parametrize("name", ["openai-chat:m", "openai:m", "anthropic:m", "groq:m"])
async def test_a_client_repeats_nothing_and_is_not_copied_for_that(
    name: str, site: Site, monkeypatch: pytest.MonkeyPatch
):
    for provider in ("OPENAI", "ANTHROPIC", "GROQ"):
        monkeypatch.setenv(f"{provider}_BASE_URL", site.origin)
        monkeypatch.setenv(f"{provider}_API_KEY", "key")
    model = models.build(settings.load(model=name))
    client: Any = model
    for kind in type(client.client).__mro__:
        if "with_options" in vars(kind):
            monkeypatch.setattr(kind, "with_options", None)
    site.pages = _AnyPath(Reply('{"error": {"message": "later"}}', "application/json", status=503))
    error = await _fail(model)
    assert isinstance(error, ModelHTTPError)
    assert len(site.seen) == 1
