"""Reads answers as models, which load with the first answer that is read as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx2

from handinger.sdk.errors import APIResponseError

if TYPE_CHECKING:
    from handinger.sdk.models import ApiObject, WorkerSchedule

T = TypeVar("T")
M = TypeVar("M", bound="ApiObject")


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file of a worker's workspace, or a mail, whole."""

    content: bytes
    media_type: str
    etag: str | None = None

    def read(self) -> bytes:
        """The bytes."""
        return self.content

    def write_to_file(self, path: str | Path) -> None:
        """Create or replace the file at `path`."""
        Path(path).write_bytes(self.content)


def _reader(model: Callable[[], type[M]]) -> Callable[[httpx2.Response], M]:
    def read(response: httpx2.Response) -> M:
        wanted = model()
        return _validated(response, wanted.model_validate_json, wanted.__name__)

    return read


def _models():
    from handinger.sdk import models

    return models


read_worker = _reader(lambda: _models().Worker)
read_worker_page = _reader(lambda: _models().WorkerPage)
read_turn = _reader(lambda: _models().Turn)
read_turn_page = _reader(lambda: _models().TurnPage)
read_deletion = _reader(lambda: _models().Deletion)
read_cancellation = _reader(lambda: _models().Cancellation)
read_budgets = _reader(lambda: _models().BudgetList)
read_schedules = _reader(lambda: _models().WorkerSchedules)
read_usage_report = _reader(lambda: _models().UsageReport)
read_email_settings = _reader(lambda: _models().EmailSettings)
read_email_page = _reader(lambda: _models().EmailPage)


def read_schedule(response: httpx2.Response) -> WorkerSchedule:
    return _validated(response, _models().WORKER_SCHEDULE.validate_json, "WorkerSchedule")


def read_address(response: httpx2.Response) -> str:
    return _validated(response, _models().JSON_STRING.validate_json, "JSON string")


def read_file(response: httpx2.Response) -> FileContent:
    return FileContent(
        content=response.content,
        media_type=response.headers.get("content-type", "application/octet-stream"),
        etag=response.headers.get("etag"),
    )


def _validated(response: httpx2.Response, validate: Callable[[bytes], T], name: str) -> T:
    from pydantic import ValidationError

    try:
        return validate(response.content)
    except ValidationError as error:
        raise APIResponseError(
            f"The answer from {response.url} is no {name}; is this the right URL?"
        ) from error
