"""Opaque, sortable ids with a type prefix: a UUIDv7 (RFC 9562) in hexadecimal behind it."""

import re
from typing import NewType

import uuid_utils

OrganizationId = NewType("OrganizationId", str)
KeyId = NewType("KeyId", str)
WorkerId = NewType("WorkerId", str)
TaskId = NewType("TaskId", str)
TurnId = NewType("TurnId", str)
ScheduleId = NewType("ScheduleId", str)

_TAIL = re.compile(r"[0-9a-f]{32}")


def new(prefix: str) -> str:
    """A new id; ids of one process sort in the order of their making."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def is_valid(prefix: str, value: str) -> bool:
    """Whether a caller's string can be an id at all; spares the database what never can."""
    head, separator, tail = value.partition("_")
    return head == prefix and bool(separator) and _TAIL.fullmatch(tail) is not None
