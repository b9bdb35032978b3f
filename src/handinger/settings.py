"""The configuration, read once from the environment; nothing below reads the environment itself."""

import json
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from handinger import mailbox
from handinger.errors import ConfigurationError

BudgetName = Literal["low", "standard", "high", "unlimited"]

MIB = 1024 * 1024

# The first provider whose key is in the environment decides the model when none is configured.
_MODEL_BY_PROVIDER_KEY = (
    ("ANTHROPIC_API_KEY", "anthropic:claude-sonnet-4-5"),
    ("OPENAI_API_KEY", "openai:gpt-5"),
    ("GEMINI_API_KEY", "google:gemini-2.5-pro"),
    ("GOOGLE_API_KEY", "google:gemini-2.5-pro"),
    ("MISTRAL_API_KEY", "mistral:mistral-large-latest"),
    ("GROQ_API_KEY", "groq:llama-3.3-70b-versatile"),
)

# What the providers' own libraries read.
_URL_BY_PROVIDER = {
    "anthropic": "ANTHROPIC_BASE_URL",
    "cohere": "CO_BASE_URL",
    "google": "GOOGLE_GEMINI_BASE_URL",
    "google-gla": "GOOGLE_GEMINI_BASE_URL",
    "groq": "GROQ_BASE_URL",
    "ollama": "OLLAMA_BASE_URL",
    "openai": "OPENAI_BASE_URL",
    "openai-chat": "OPENAI_BASE_URL",
    "openai-responses": "OPENAI_BASE_URL",
}

_Usd = Annotated[Decimal, Field(ge=0, le=1_000_000)]


class BudgetLimits(BaseModel):
    """The caps of one budget level, for one turn; None means no cap."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    model_calls: Annotated[int | None, Field(alias="modelCalls", ge=1)] = None
    usd: Annotated[float | None, Field(ge=0, le=1e9)] = None
    seconds: Annotated[float | None, Field(gt=0, le=366 * 86400)] = None


DEFAULT_BUDGETS: Mapping[BudgetName, BudgetLimits] = {
    "low": BudgetLimits(model_calls=4, usd=0.05, seconds=120),
    "standard": BudgetLimits(model_calls=20, usd=0.50, seconds=15 * 60),
    "high": BudgetLimits(model_calls=100, usd=5.00, seconds=2 * 3600),
    "unlimited": BudgetLimits(model_calls=None, usd=None, seconds=24 * 3600),
}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


class _Rates(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, alias_generator=_camel
    )

    cache_read: _Usd | None = None
    cache_write: _Usd | None = None
    input_audio: _Usd | None = None


class RatesTier(_Rates):
    """What a model costs in calls whose input is larger than `above` tokens, per million tokens."""

    above: Annotated[int, Field(ge=0)]
    input: _Usd | None = None
    output: _Usd | None = None


class ModelRates(_Rates):
    """What a model costs, in USD per million tokens; `request` per call."""

    input: _Usd
    output: _Usd
    request: _Usd | None = None
    tiers: tuple[RatesTier, ...] = ()

    @model_validator(mode="after")
    def _tiers_have_a_base(self) -> Self:
        for name in type(self).model_fields:
            if getattr(self, name) is None and any(
                getattr(tier, name, None) is not None for tier in self.tiers
            ):
                raise ValueError(f"a tier has {_camel(name)}, which also needs a price below it")
        return self


class RateLimit(BaseModel):
    """So many requests of one key in a window of so many seconds."""

    model_config = ConfigDict(frozen=True)

    requests: Annotated[int, Field(ge=1)]
    window_s: Annotated[int, Field(ge=1)]

    def __str__(self) -> str:
        """As in the variable."""
        return f"{self.requests}/{self.window_s}"


CommaSeparated = Annotated[tuple[str, ...] | None, NoDecode]
"""A list in one variable, its items between commas."""


class Settings(BaseSettings):
    """Every setting, under its `HANDINGER_` name; `docs/configuration.md` explains each."""

    model_config = SettingsConfigDict(
        env_prefix="HANDINGER_", extra="ignore", frozen=True, validate_default=True
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    data_dir: Path = Path(".handinger")
    database_url: SecretStr | None = None
    storage_url: str | None = None
    model: str | None = None
    context_window: Annotated[int | None, Field(ge=1000)] = None
    public_url: str | None = None
    bootstrap_api_key: SecretStr | None = None
    metrics_token: Annotated[SecretStr | None, Field(min_length=16)] = None
    secret_key: Annotated[SecretStr | None, Field(min_length=32)] = None
    mcp_connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 10
    mcp_call_timeout_s: Annotated[float, Field(gt=0)] = 120
    mcp_max_bytes: Annotated[int, Field(ge=64 * 1024)] = 16 * MIB
    budgets: Annotated[dict[BudgetName, BudgetLimits], NoDecode] = Field(
        default_factory=lambda: dict(DEFAULT_BUDGETS)
    )
    prices: Annotated[dict[str, ModelRates], NoDecode] = Field(
        default_factory=dict[str, ModelRates]
    )
    max_output_tokens: Annotated[int | None, Field(ge=256)] = None
    image_input: bool | None = None
    usd_per_credit: Annotated[Decimal, Field(gt=0, le=1_000_000, decimal_places=9)] = Decimal(
        "0.01"
    )
    max_concurrent_turns: Annotated[int, Field(ge=1)] = 64
    max_concurrent_turns_per_organization: Annotated[int | None, Field(ge=1)] = None
    max_waiting_turns_per_worker: Annotated[int, Field(ge=1)] = 20
    max_queued_turns: Annotated[int, Field(ge=1)] = 10_000
    max_attempts: Annotated[int, Field(ge=1)] = 5
    max_schedules_per_worker: Annotated[int, Field(ge=0)] = 100
    max_agent_schedules_per_worker: Annotated[int, Field(ge=0)] = 20
    min_agent_interval_s: Annotated[int, Field(ge=1)] = 60
    max_json_bytes: Annotated[int, Field(ge=1024)] = 32 * MIB
    max_json_values: Annotated[int, Field(ge=1000)] = 20_000
    max_multipart_bytes: Annotated[int, Field(ge=1024)] = 256 * MIB
    max_attachments: Annotated[int, Field(ge=1, le=1000)] = 100
    max_metadata_bytes: Annotated[int, Field(ge=2)] = 64 * 1024
    max_file_bytes: Annotated[int, Field(ge=1)] = 100 * MIB
    max_workspace_bytes: Annotated[int, Field(ge=1)] = 1024 * MIB
    max_workspace_files: Annotated[int, Field(ge=1)] = 10_000
    blob_grace_s: Annotated[float, Field(ge=1)] = 3600
    sandbox: Literal["auto", "off"] = "auto"
    sandbox_dir: Path | None = None
    sandbox_paths: Annotated[tuple[Path, ...] | None, NoDecode] = None
    sandbox_memory_bytes: Annotated[int, Field(ge=64 * MIB)] = 1024 * MIB
    sandbox_memory_reserve_bytes: Annotated[int, Field(ge=0)] = 128 * MIB
    sandbox_processes: Annotated[int, Field(ge=8)] = 256
    sandbox_cpus: Annotated[float, Field(ge=0.05)] = 1
    sandbox_cpu_s: Annotated[int, Field(ge=1)] = 600
    sandbox_disk_bytes: Annotated[int, Field(ge=MIB)] = 2048 * MIB
    sandbox_disk_entries: Annotated[int, Field(ge=100)] = 50_000
    sandbox_disk_reserve_bytes: Annotated[int, Field(ge=0)] = 1024 * MIB
    sandbox_output_bytes: Annotated[int, Field(ge=1024)] = 10 * MIB
    sandbox_timeout_s: Annotated[int, Field(ge=1)] = 600
    sandbox_max_published: Annotated[int, Field(ge=0)] = 100
    sandbox_usd_per_second: Annotated[float, Field(ge=0, le=1)] = 0
    fetch_allow_private: Annotated[tuple[str, ...] | None, NoDecode] = None
    fetch_trusted_hosts: Annotated[tuple[str, ...] | None, NoDecode] = None
    fetch_max_bytes: Annotated[int, Field(ge=1024)] = 20 * MIB
    fetch_timeout_s: Annotated[float, Field(gt=0, le=600)] = 30
    fetch_max_characters: Annotated[int, Field(ge=1000)] = 30_000
    search_provider: Literal["ddgs", "brave", "tavily", "searxng", "off"] = "ddgs"
    search_api_key: SecretStr | None = None
    search_url: str | None = None
    search_usd: Annotated[float, Field(ge=0, le=100)] = 0
    search_timeout_s: Annotated[float, Field(gt=0, le=600)] = 20
    model_timeout_s: Annotated[float, Field(gt=0)] = 600
    model_retries: Annotated[int, Field(ge=0)] = 5
    rate_limit: Annotated[RateLimit | None, NoDecode] = None
    shutdown_grace_s: Annotated[float, Field(gt=0, le=12)] = 10
    email_domain: str | None = None
    email_name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,28}[a-z0-9])?$")] = "worker"
    email_allow: CommaSeparated = None
    email_verify: bool = True
    email_trusted_relays: CommaSeparated = None
    email_resolver: str | None = None
    email_max_bytes: Annotated[int, Field(ge=1024)] = 25 * MIB
    email_max_recipients: Annotated[int, Field(ge=1)] = 100
    email_max_parallel: Annotated[int, Field(ge=1)] = 8
    email_verify_timeout_s: Annotated[float, Field(gt=0)] = 20
    email_max_per_sender_per_hour: Annotated[int, Field(ge=1)] = 30
    email_max_reports: Annotated[int, Field(ge=0)] = 20
    email_max_attached_bytes: Annotated[int, Field(ge=0)] = 20 * MIB
    email_max_sent_per_turn: Annotated[int, Field(ge=0)] = 10
    email_retry_delay_s: Annotated[float, Field(gt=0)] = 30
    email_retry_max_delay_s: Annotated[float, Field(gt=0)] = 4 * 3600
    email_retry_for_s: Annotated[float, Field(ge=0)] = 2 * 86400
    dkim_key_file: Path | None = None
    dkim_selector: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")] = (
        "handinger"
    )
    inbound_email_secret: SecretStr | None = None
    smtp_url: SecretStr | None = None
    smtp_send_timeout_s: Annotated[float, Field(gt=0)] = 60
    smtp_listen: str | None = None
    smtp_tls_cert_file: Path | None = None
    smtp_tls_key_file: Path | None = None
    smtp_max_connections: Annotated[int, Field(ge=1)] = 100
    smtp_max_connections_per_ip: Annotated[int, Field(ge=1)] = 20
    smtp_rate_limit: Annotated[RateLimit | None, NoDecode] = RateLimit(requests=60, window_s=60)
    smtp_timeout_s: Annotated[float, Field(gt=0)] = 300
    smtp_mail_timeout_s: Annotated[float, Field(gt=0)] = 1800
    timezone: str = "UTC"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("email_allow", "email_trusted_relays", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(item.strip() for item in value.split(",") if item.strip())

    @field_validator("email_allow", mode="after")
    @classmethod
    def _known_senders(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else mailbox.parse_allow_list(value)

    @field_validator("email_domain", mode="after")
    @classmethod
    def _ascii_domain(cls, value: str | None) -> str | None:
        return None if value is None else mailbox.parse_domain(value)

    @field_validator("email_trusted_relays", mode="after")
    @classmethod
    def _networks(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for network in value or ():
            ip_network(network, strict=False)
        return value

    @field_validator("smtp_url", mode="after")
    @classmethod
    def _usable_smtp_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            url = urlsplit(value.get_secret_value())
            usable = url.scheme in ("smtp", "smtps") and bool(url.hostname) and url.port != 0
        except ValueError:
            usable = False
        if not usable:
            # Never with the URL, which may hold a password.
            raise ValueError(
                "must be smtp://host:port or smtps://host:port, with user:password@ before the "
                "host if it wants a login; percent-encode what is special in the password"
            ) from None
        return value

    @field_validator("smtp_listen", "email_resolver", mode="after")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None:
            split_host_port(value)
        return value

    @field_validator("rate_limit", "smtp_rate_limit", mode="before")
    @classmethod
    def _read_rate_limit(cls, value: object) -> object:
        """`100/60` means 100 requests in 60 seconds."""
        if not isinstance(value, str):
            return value
        if not value:
            return None
        requests, slash, window_s = value.partition("/")
        if not slash:
            raise ValueError("must be REQUESTS/SECONDS, for example 100/60")
        return {"requests": requests, "window_s": window_s}

    @field_validator("sandbox_paths", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        """As in PATH, with colons between them."""
        if not isinstance(value, str):
            return value
        return [path for path in value.split(":") if path] or None

    @field_validator("sandbox_paths", mode="after")
    @classmethod
    def _visible_paths(cls, value: tuple[Path, ...] | None) -> tuple[Path, ...] | None:
        for path in value or ():
            if not path.is_absolute() or len(path.parts) < 2:
                raise ValueError(f"{str(path)!r} must be the absolute path of a folder")
            if not path.is_dir():
                raise ValueError(f"there is no folder {str(path)!r}")
        return value

    @field_validator("fetch_allow_private", "fetch_trusted_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        """Commas between them; nothing at all is none."""
        if not isinstance(value, str):
            return value
        return [host for host in (part.strip().lower() for part in value.split(",")) if host]

    @field_validator("fetch_allow_private", "fetch_trusted_hosts", mode="after")
    @classmethod
    def _plain_hosts(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for entry in value or ():
            bare = entry if entry.count(":") < 2 or "[" in entry else f"[{entry}]"
            try:
                parts = urlsplit(f"//{bare}")
                plain = bool(parts.hostname) and parts.netloc == bare and parts.port != 0
            except ValueError:
                plain = False
            if not plain or set(bare) & set("@* \t"):
                raise ValueError(
                    f"{entry!r} is no host; write a name or an address, with :PORT or without"
                )
        return value or None

    @field_validator("search_url", mode="after")
    @classmethod
    def _web_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/") if value else None

    @model_validator(mode="after")
    def _complete_search(self) -> Self:
        provider = self.search_provider
        if provider in ("brave", "tavily") and self.search_api_key is None:
            raise ValueError(f"HANDINGER_SEARCH_API_KEY is needed for the search by {provider}")
        if provider == "searxng" and self.search_url is None:
            raise ValueError("HANDINGER_SEARCH_URL is needed: where your SearXNG is")
        return self

    @field_validator("database_url", mode="after")
    @classmethod
    def _readable_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        try:
            if not text.startswith(("postgresql://", "postgres://")):
                raise ValueError
            conninfo_to_dict(text)
        except (ValueError, ProgrammingError):
            # Never with its cause, which repeats the URL and the password in it.
            raise ValueError(
                "must be postgresql://user:password@host:port/database; percent-encode what is "
                "special in the password"
            ) from None
        return value

    @field_validator("timezone", mode="after")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("must be an IANA time zone, for example Europe/Madrid") from error
        return value

    @field_validator("budgets", mode="before")
    @classmethod
    def _keep_default_budgets(cls, value: object) -> object:
        """What is not overridden, a level or one cap of it, keeps its default."""
        if not isinstance(value, dict):
            return value
        given = cast("dict[str, object]", value)
        merged: dict[str, object] = {}
        for name in {**DEFAULT_BUDGETS, **given}:
            level = given.get(name, {})
            default = DEFAULT_BUDGETS.get(cast("BudgetName", name))
            caps = default.model_dump(by_alias=True) if default else {}
            merged[name] = {**caps, **level} if isinstance(level, dict) else level
        return merged

    @field_validator("budgets", "prices", mode="before")
    @classmethod
    def _read_json(cls, value: object) -> object:
        """Before the one above, for what stands below is done first."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"must be JSON: {error}") from None

    @property
    def model_id(self) -> str:
        """The configured model, else what the provider keys allow, else `demo`."""
        if self.model:
            return self.model
        for variable, model in _MODEL_BY_PROVIDER_KEY:
            if os.environ.get(variable):
                return model
        return "demo"

    @property
    def nano_per_credit(self) -> int:
        """What one credit is worth, in nano-dollars."""
        return int(self.usd_per_credit * 1_000_000_000)

    @property
    def model_url(self) -> str | None:
        """Where the configured model is asked, if not at its provider's usual address."""
        provider = self.model_id.partition(":")[0]
        return os.environ.get(_URL_BY_PROVIDER.get(provider, ""))

    @property
    def mail_domain(self) -> str:
        """Behind the @ of the workers' addresses: as set, else the host of the public URL."""
        if self.email_domain is not None:
            return self.email_domain
        host = urlsplit(self.base_url).hostname or "localhost"
        try:
            return mailbox.parse_domain(host)
        except ValueError:
            return "localhost"  # An IP address is no mail domain.

    @property
    def base_url(self) -> str:
        """Where callers reach this server, without a slash at the end."""
        if self.public_url:
            return self.public_url.rstrip("/")
        # Nobody can call a wildcard address; whoever serves others sets HANDINGER_PUBLIC_URL.
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}"


def split_host_port(value: str) -> tuple[str, int]:
    """Raises ValueError for what is not `host:port`; an IPv6 host stands in brackets."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, for example 0.0.0.0:25")
    return host.removeprefix("[").removesuffix("]"), int(port)


def load(**overrides: Any) -> Settings:
    """Read the environment; `overrides` (such as command line flags) win.

    Raises ConfigurationError, whose message names the variable.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = [str(part) for part in first["loc"]]
        variable = "HANDINGER_" + path[0].upper() if path else "HANDINGER_*"
        inside = f" (at {'.'.join(path[1:])})" if len(path) > 1 else ""
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{variable}{inside} is not valid: {reason}.") from None
    except ValueError as error:
        # pydantic-settings raises its own error for a variable that should hold JSON and does not.
        raise ConfigurationError(f"The configuration cannot be read: {error}.") from error


def _without_secrets(text: str) -> str:
    """A URL may have a password, or a key, before its @ or behind its question mark."""
    if "://" not in text:
        return text
    return re.sub(r"\?.*", "?(set)", re.sub(r"(?<=://).*@", "(set)@", text))


def describe(settings: Settings) -> list[tuple[str, str]]:
    """Each variable with its printable value; secrets show only that they are set."""
    rows: list[tuple[str, str]] = []
    for name in type(settings).model_fields:
        value: object = getattr(settings, name)
        if isinstance(value, SecretStr):
            text = "(set)"
        elif isinstance(value, dict):
            text = settings.model_dump_json(include={name}, by_alias=True)[len(name) + 4 : -1]
        elif name == "model" and value is None:
            text = f"(not set: {settings.model_id})"
        elif isinstance(value, tuple):
            # As the variable is written: paths like PATH, other lists with commas.
            separator = ":" if name == "sandbox_paths" else ","
            text = separator.join(str(item) for item in cast("tuple[object, ...]", value))
        else:
            text = "(not set)" if value is None else _without_secrets(str(value))
        rows.append((f"HANDINGER_{name.upper()}", text))
    return rows
