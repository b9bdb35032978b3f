"""`GET /metrics`: what Prometheus reads (1.11)."""

from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.conftest import Connect, StartServer
from tests.contract.wire import error_in, worker_in
from tests.contract.world import Api, Scripts, wait_until
from tests.support.model_server import HttpError, Step, ToolCall, Usage

TOKEN = "of-the-scraper-alone"
DOCS = Path(__file__).parents[2] / "docs" / "self-hosting.md"


@pytest.fixture(scope="module")
def measured(new_server: StartServer, connect: Connect) -> Api:
    """Of a server whose metrics need a token."""
    server = new_server(
        "measured",
        {
            "HANDINGER_METRICS_TOKEN": TOKEN,
            "HANDINGER_PRICES": '{"*": {"input": 1, "output": 10}}',
            "HANDINGER_MODEL_RETRIES": "1",
        },
    )
    return connect(server, server.key)


def _scrape(api: Api) -> httpx2.Response:
    authorization = {"Authorization": f"Bearer {TOKEN}"}
    return httpx2.get(f"{api.server.base_url}/metrics", headers=authorization)


def _value(api: Api, name: str, **labels: str) -> float:
    answer = _scrape(api)
    assert answer.status_code == 200
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


def test_a_scrape_is_text_of_prometheus_and_all_of_it_is_documented(measured: Api):
    answer = _scrape(measured)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    named = [family.name for family in text_string_to_metric_families(answer.text)]
    ours = [name for name in named if name.startswith("handinger_")]
    assert len(ours) >= 10
    assert "process_resident_memory_bytes" in named
    documented = DOCS.read_text()
    assert [name for name in ours if name not in documented] == []


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_a_token_that_is_set_is_asked_for(measured: Api, headers: Mapping[str, str]):
    answer = httpx2.get(f"{measured.server.base_url}/metrics", headers=headers)
    error = error_in(answer, 401, "unauthorized")
    assert "HANDINGER_METRICS_TOKEN" in error["error"]


def test_turns_calls_and_money_are_counted_as_the_worker_reports_them(
    measured: Api, scripts: Scripts
):
    names = {
        "turns": ("handinger_turns_total", {"source": "api", "outcome": "completed"}),
        "attempts": ("handinger_turn_attempts_total", {"kind": "first"}),
        "calls": ("handinger_model_calls_total", {}),
        "input": ("handinger_tokens_total", {"kind": "input"}),
        "usd": ("handinger_cost_usd_total", {"kind": "model"}),
        "failures": ("handinger_model_failures_total", {}),
        "listed": ("handinger_tool_calls_total", {"tool": "list_files", "outcome": "success"}),
        "invented": ("handinger_tool_calls_total", {"tool": "other", "outcome": "failed"}),
        "seconds": ("handinger_turn_seconds_count", {"source": "api"}),
        "requests": (
            "handinger_http_requests_total",
            {"method": "POST", "route": "/api/workers", "status": "200"},
        ),
    }
    before = {key: _value(measured, name, **labels) for key, (name, labels) in names.items()}
    calls = [ToolCall("list_files", {}), ToolCall("no_such_tool", {})]
    instruction = scripts(
        Step(tool_calls=calls, usage=Usage(prompt_tokens=100, completion_tokens=10)),
        Step(
            attempts=[HttpError(500)],
            text="done",
            usage=Usage(prompt_tokens=200, completion_tokens=20),
        ),
    )
    worker = worker_in(measured.create(instruction))
    grown = {
        key: _value(measured, name, **labels) - before[key] for key, (name, labels) in names.items()
    }
    usd = grown.pop("usd")
    assert usd == pytest.approx(worker["costs"]["modelCostUsd"], abs=1e-9)
    assert grown == {
        "turns": 1,
        "attempts": 1,
        "calls": worker["usage"]["steps"],
        "input": worker["usage"]["inputTokens"],
        "failures": 1,
        "listed": 1,
        "invented": 1,
        "seconds": 1,
        "requests": 1,
    }


def test_what_runs_and_who_reads_is_shown_while_it_does(measured: Api, scripts: Scripts):
    instruction = scripts.held()
    worker = measured.start(instruction)
    instruction.wait_for(1)
    assert _value(measured, "handinger_turns_running") == 1
    with measured.client.stream("GET", f"/api/workers/{worker['id']}/stream") as stream:
        lines = stream.iter_lines()
        next(lines)
        wait_until(lambda: _value(measured, "handinger_stream_readers") == 1)
    measured.queue(worker["id"], scripts(Step(text="x")))
    wait_until(lambda: _value(measured, "handinger_turns_waiting") == 1)
    instruction.open()
    measured.wait_until_idle(worker["id"])
    wait_until(lambda: _value(measured, "handinger_turns_running") == 0)
    wait_until(lambda: _value(measured, "handinger_stream_readers") == 0)


def test_no_label_is_of_a_callers_making(measured: Api):
    measured.client.get("/api/workers/wrk_secret-of-mine/turns/trn_secret-of-mine")
    measured.client.get("/secret-of-mine")
    measured.client.request("SECRETOFMINE", "/api/workers")
    text = _scrape(measured).text
    assert "secret" not in text.casefold()
    assert 'route="none",status="404"' in text
    assert 'route="/api/workers/{workerId}/turns/{turnId}",status="404"' in text
