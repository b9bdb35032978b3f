"""The configuration: read from the environment, wrong values named, secrets never shown."""

import pytest

from handinger import settings
from handinger.errors import ConfigurationError


def test_defaults_need_no_environment() -> None:
    loaded = settings.load()
    assert (loaded.host, loaded.port, loaded.base_url) == (
        "127.0.0.1",
        8000,
        "http://127.0.0.1:8000",
    )
    assert loaded.budgets["low"].model_calls == 4
    assert loaded.budgets["unlimited"].usd is None


def test_an_overridden_cap_leaves_the_others_at_their_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HANDINGER_BUDGETS", '{"low": {"modelCalls": 2}, "high": {"seconds": null}}')
    budgets = settings.load().budgets
    assert (budgets["low"].model_calls, budgets["low"].usd, budgets["low"].seconds) == (
        2,
        0.05,
        120,
    )
    assert (budgets["high"].model_calls, budgets["high"].seconds) == (100, None)
    assert budgets["standard"].model_calls == 20


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HANDINGER_PORT", "70000"),
        ("HANDINGER_PORT", "eighty"),
        ("HANDINGER_BUDGETS", '{"low": {"modelCalls": 0}}'),
        ("HANDINGER_BUDGETS", '{"huge": {"modelCalls": 5}}'),
        ("HANDINGER_BUDGETS", '{"low": {"calls": 5}}'),
        ("HANDINGER_BUDGETS", '{"low": {"usd": Infinity}}'),
        ("HANDINGER_BUDGETS", '{"low": {"usd": NaN}}'),
        ("HANDINGER_BUDGETS", '{"low": '),
        ("HANDINGER_BUDGETS", "[]"),
        ("HANDINGER_PRICES", "3 USD"),
        ("HANDINGER_PRICES", '{"a:b": {"input": 1}}'),
        ("HANDINGER_PRICES", '{"a:b": {"input": -1, "output": 1}}'),
        ("HANDINGER_PRICES", '{"a:b": {"input": NaN, "output": 1}}'),
        ("HANDINGER_PRICES", '{"a:b": {"input": 1, "output": 1, "cached": 1}}'),
        # The tier would be for what has no price of its own.
        (
            "HANDINGER_PRICES",
            '{"a:b": {"input": 1, "output": 1, "tiers": [{"above": 9, "cacheRead": 1}]}}',
        ),
        ("HANDINGER_USD_PER_CREDIT", "0"),
        ("HANDINGER_USD_PER_CREDIT", "NaN"),
        # Less than a nano-dollar, and what is no whole number of them.
        ("HANDINGER_USD_PER_CREDIT", "1e-10"),
        ("HANDINGER_USD_PER_CREDIT", "0.0000000015"),
        ("HANDINGER_MAX_CONCURRENT_TURNS", "0"),
        ("HANDINGER_RATE_LIMIT", "100"),
        ("HANDINGER_RATE_LIMIT", "0/60"),
        ("HANDINGER_LOG_LEVEL", "loud"),
        ("HANDINGER_TIMEZONE", "Mars/Olympus"),
        ("HANDINGER_SHUTDOWN_GRACE_S", "60"),
    ],
)
def test_a_wrong_value_is_refused_by_the_variables_name(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        settings.load()


def test_the_rate_limit_is_requests_per_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDINGER_RATE_LIMIT", "100/60")
    limit = settings.load().rate_limit
    assert limit is not None
    assert (limit.requests, limit.window_s) == (100, 60)


def test_describing_shows_every_setting_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDINGER_DATABASE_URL", "postgresql://me:hunter2@db/handinger")
    monkeypatch.setenv("HANDINGER_BOOTSTRAP_API_KEY", "hdg_live_" + "s" * 40)
    rows = dict(settings.describe(settings.load()))
    assert {f"HANDINGER_{name.upper()}" for name in settings.Settings.model_fields} == set(rows)
    assert "hunter2" not in str(rows)
    assert "ssss" not in str(rows)
    assert rows["HANDINGER_DATABASE_URL"] == "(set)"


@pytest.mark.parametrize("name", ["STORAGE_URL", "SEARCH_URL", "PUBLIC_URL"])
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hunter2@a.example/b", "https://(set)@a.example/b"),
        ("https://me:hunter2/@a.example/b", "https://(set)@a.example/b"),
        ("https://a.example/b?sig=hunter2", "https://a.example/b?(set)"),
        ("https://a.example/b", "https://a.example/b"),
    ],
)
def test_a_secret_inside_a_url_is_not_shown(
    name: str, url: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"HANDINGER_{name}", url)
    assert dict(settings.describe(settings.load()))[f"HANDINGER_{name}"] == shown


def test_a_public_url_loses_its_last_slash_and_ipv6_gets_brackets() -> None:
    assert settings.load(public_url="https://a.example/").base_url == "https://a.example"
    assert settings.load(host="::1", port=1).base_url == "http://[::1]:1"
