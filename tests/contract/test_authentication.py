"""Keys: what opens the door, and when it closes (0)."""

import json
import os
import re
import subprocess
import sys

import httpx2
import pytest

from tests.contract.conftest import Connect
from tests.contract.wire import error_in
from tests.contract.world import Api, header

UNKNOWN = "hdg_live_" + "x" * 43


def _get(api: Api, headers: dict[str, str]) -> httpx2.Response:
    return httpx2.get(f"{api.server.base_url}/api/workers", headers=headers)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "hdg_live_" + "x" * 43,
        "Basic aGRnOmxpdmU=",
        "Token " + UNKNOWN,
        "Bearer sk-1234567890123456789012345678901234567890",
        "Bearer hdg_live_tooshort",
        "Bearer hdg_live_" + "x" * 31,
        "Bearer hdg_live_" + "x" * 100_000,
        "Bearer hdg_test_" + "x" * 43,
        "Bearer HDG_LIVE_" + "x" * 43,
        "Bearer hdg_live_" + "x" * 42 + "!",
        "Bearer hdg_live_" + "x" * 42 + "é",
        "Bearer hdg_live_" + "x" * 21 + " " + "x" * 21,
        "Bearer hdg_live_' OR 1=1 --xxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "Bearer " + UNKNOWN,
    ],
)
def test_a_key_that_is_missing_malformed_or_unknown_is_401(api: Api, authorization: str | None):
    headers = {} if authorization is None else header("Authorization", authorization)
    answer = httpx2.get(f"{api.server.base_url}/api/workers", headers=headers)
    error = error_in(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "key" in error["error"]
    assert UNKNOWN not in error["error"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_may_be_written_as_one_likes(api: Api, scheme: str):
    assert _get(api, {"Authorization": f"{scheme} {api.key}"}).status_code == 200


@pytest.mark.parametrize("change", ["last", "first", "longer", "shorter", "case"])
def test_a_key_must_be_right_to_the_letter(api: Api, change: str):
    secret = api.key
    letter = secret[-1]
    wrong = {
        "last": secret[:-1] + ("a" if letter != "a" else "b"),
        "first": "hdg_live_" + ("a" if secret[9] != "a" else "b") + secret[10:],
        "longer": secret + "a",
        "shorter": secret[:-1],
        "case": secret[:9] + secret[9:].swapcase(),
    }[change]
    error_in(_get(api, {"Authorization": f"Bearer {wrong}"}), 401, "unauthorized")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_key(api: Api, path: str):
    assert httpx2.get(api.server.base_url + path).json() == {"status": "ok", "problems": {}}


def _handinger(api: Api, *arguments: str) -> str:
    """A command of the operator's, beside the running server."""
    done = subprocess.run(
        [sys.executable, "-m", "handinger", *arguments],
        env={"PATH": os.environ["PATH"], "HANDINGER_DATA_DIR": str(api.server.data_dir)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_key_opens_until_it_is_revoked_and_not_a_moment_longer(api: Api, connect: Connect):
    secret = _handinger(api, "keys", "create", "--name", "short-lived", "--quiet").strip()
    assert re.fullmatch(r"hdg_live_[A-Za-z0-9_-]{32,}", secret)
    listed = _handinger(api, "keys", "list", "--format", "json")
    assert secret not in listed
    records = json.loads(listed)
    (key,) = [record for record in records if record["name"] == "short-lived"]
    assert key["id"].startswith("key_")

    short_lived = connect(api.server, secret)
    assert short_lived.client.get("/api/workers").status_code == 200
    _handinger(api, "keys", "revoke", key["id"])
    # On the connection that is still open, and on every other one.
    error_in(short_lived.client.get("/api/workers"), 401, "unauthorized")
    error_in(_get(api, {"Authorization": f"Bearer {secret}"}), 401, "unauthorized")
    assert api.client.get("/api/workers").status_code == 200
