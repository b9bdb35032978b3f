"""`handinger usage`, for a person."""

from typing import Any

from tests.cli.conftest import Cli
from tests.sdk.stub import Stub, reply

SPENT = {"costs": {}, "usage": {"steps": 3, "totalTokens": 12_345, "costUsd": 0.5}}
REPORT: dict[str, Any] = {
    "from": "2026-01-01T00:00:00.000Z",
    "to": "2026-02-01T00:00:00.000Z",
    "groupBy": "model",
    "groups": [{"key": "demo\x1b[2J", **SPENT}],
    "total": SPENT,
    "balanceCredits": None,
    "monthlyCapUsd": None,
    "monthUsd": None,
}


def test_what_was_used_is_summed_up(cli: Cli, stub: Stub):
    stub.on("GET /api/usage", reply(REPORT))
    status, out, _ = cli("usage", "--from", "2026-01-01", "--group-by=model", "--format=pretty")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["model", "steps", "tokens", "USD"],
        ["demo[2J", "3", "12,345", "$0.5000"],
        ["in", "all", "3", "12,345", "$0.5000"],
    ]
    assert stub.requests[0].target == "/api/usage?groupBy=model&from=2026-01-01"


def test_what_is_left_is_told_where_something_is_limited(cli: Cli, stub: Stub):
    limits = {"balanceCredits": 1, "monthlyCapUsd": 100, "monthUsd": 12.5}
    stub.on("GET /api/usage", reply({**REPORT, **limits}))
    _, out, _ = cli("usage", "--format", "pretty")
    assert out.splitlines()[-2:] == ["left: 1 credit", "this month: $12.50 of $100.00"]


def test_a_group_that_does_not_exist_is_refused(cli: Cli, stub: Stub):
    status, _, err = cli("usage", "--group-by", "week")
    assert (status, "week" in err, stub.requests) == (2, True, [])
