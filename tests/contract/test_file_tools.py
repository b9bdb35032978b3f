"""What the file tools make of binary files and of patterns."""

import base64
from typing import Any

import pytest

from handinger.files.paths import matches
from tests.contract.wire import worker_in
from tests.contract.world import Api, Scripts
from tests.support.model_server import Step, ToolCall

BINARY = bytes(range(256)) * 20
# More than is read at a time, in characters of one to four bytes each.
LONG = "aüก😀" * 200_000
# Text at first, so it is text; and a program that is none, although it has no other name.
LATE = b"begins as text\n" * 300 + b"\xff\xfe and ends as none"
EARLY = b"\x7fELF\0 begins as none\n" * 300
FILES = {
    **{"noise.bin": BINARY, "a.csv": b"1", "b.txt": b"2", "odd[1].csv": b"3"},
    **{"long.txt": LONG.encode(), "late.log": LATE, "early": EARLY, "latin.txt": b"th\xe9"},
}
# In front of, on and behind the borders between the pieces that are read.
PLACES = ((0, 5), (419_429, 9), (750_001, 50_000), (799_996, 50), (800_000, 7), (10**12, 7))


@pytest.fixture(scope="module")
def told(api: Api, scripts: Scripts) -> dict[str, str]:
    """What each call was answered."""
    calls = {
        "whole": ToolCall("read_file", {"path": "inbox/noise.bin"}),
        "part": ToolCall("read_file", {"path": "inbox/noise.bin", "offset": 5100, "limit": 4}),
        "beyond": ToolCall("read_file", {"path": "inbox/noise.bin", "offset": 9999}),
        "late": ToolCall("read_file", {"path": "inbox/late.log", "offset": 4495}),
        "early": ToolCall("read_file", {"path": "inbox/early", "limit": 8}),
        "latin": ToolCall("read_file", {"path": "inbox/latin.txt"}),
        **{
            f"from {offset}": ToolCall(
                "read_file", {"path": "inbox/long.txt", "offset": offset, "limit": limit}
            )
            for offset, limit in PLACES
        },
        "csv": ToolCall("list_files", {"path": "**/*.csv"}),
        "folder": ToolCall("list_files", {"path": "inbox"}),
        "top": ToolCall("list_files", {"path": "*.csv"}),
        "out": ToolCall("list_files", {"path": "../*"}),
    }
    files = [
        {"filename": name, "data": base64.b64encode(content).decode()}
        for name, content in FILES.items()
    ]
    steps = [Step(tool_calls=[call]) for call in calls.values()]
    worker = worker_in(api.create(scripts(*steps, Step(text="x")), files=files, budget="high"))
    parts: list[dict[str, Any]] = [
        part for part in worker["messages"][-1]["parts"] if part["type"].startswith("tool-")
    ]
    answers = [str(part.get("output", part.get("errorText"))) for part in parts]
    return dict(zip(calls, answers, strict=True))


def test_a_binary_file_is_read_as_bytes(told: dict[str, str]):
    head, first, *_, last = told["whole"].splitlines()
    assert head == "inbox/noise.bin is no text (application/octet-stream, 5120 bytes):"
    assert first == "00000000  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f"
    assert last == "[1024 more bytes; go on with offset=4096]"


def test_a_range_of_a_binary_file_counts_bytes(told: dict[str, str]):
    assert told["part"].splitlines()[1:] == [
        "000013ec  ec ed ee ef",
        "[16 more bytes; go on with offset=5104]",
    ]
    assert len(told["beyond"].splitlines()) == 1


@pytest.mark.parametrize(("offset", "limit"), PLACES)
def test_a_range_of_a_text_counts_characters(told: dict[str, str], offset: int, limit: int):
    piece, end = LONG[offset : offset + limit], offset + limit
    goes_on = f"\n[the file has {len(LONG.encode())} bytes; go on with offset={end}]"
    assert told[f"from {offset}"] == piece + (goes_on if end < len(LONG) else "")


def test_bytes_that_are_no_text_do_not_hide_the_text_around_them(told: dict[str, str]):
    shown = "text\n\ufffd\ufffd and ends as none"
    assert told["late"] == f"{shown}\n[bytes that are not UTF-8 are shown as \ufffd]"
    assert told["early"].splitlines()[1] == "00000000  7f 45 4c 46 00 20 62 65"
    assert told["latin"].splitlines()[1] == "00000000  74 68 e9"


def test_patterns_list_what_they_mean(told: dict[str, str]):
    assert [line.split("\t")[0] for line in told["csv"].splitlines()] == [
        "inbox/a.csv",
        "inbox/odd[1].csv",
    ]
    assert len(told["folder"].splitlines()) == len(FILES)
    assert told["top"] == "There are no files here."
    assert "leads out" in told["out"]


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a.csv", "*.csv", True),
        ("x/a.csv", "*.csv", False),
        ("x/a.csv", "**/*.csv", True),
        ("a.csv", "**/*.csv", True),
        ("x/y/z.txt", "x/**", True),
        ("x/y/z.txt", "**/y/*", True),
        ("x/y/z.txt", "x/*/z.???", True),
        ("x/y/z.txt", "x/?", False),
        ("x/b1", "x/[ab][0-9]", True),
        ("/".join("a" * 400), "/".join(["**", "a"] * 200), True),
        ("a" * 900, "*a" * 300 + "b", False),
    ],
)
def test_a_pattern_means_a_path(path: str, pattern: str, expected: bool):
    assert matches(path, pattern) is expected
