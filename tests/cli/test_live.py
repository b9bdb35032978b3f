"""What a person sees: the live view in a real terminal, and the pretty forms elsewhere."""

import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from handinger.cli import live, wording
from handinger.cli.live import short_input
from handinger.sdk.events import Event
from tests.cli.conftest import Cli
from tests.sdk.faces import KEY
from tests.sdk.stub import (
    TURN_ID,
    WORKER_ID,
    Stub,
    events,
    frame,
    raw,
    reply,
    turn_frames,
    worker,
)
from tests.support.terminal import Screen, Terminal, has_tmux

POST = "POST /api/workers"
UPDATES = f"GET /api/workers/{WORKER_ID}/stream"
ONE = f"GET /api/workers/{WORKER_ID}"

USAGE = {"steps": 2, "totalTokens": 1234, "costUsd": 0.0123, "durationMs": 65_400}
FILE = {
    "filename": "summary.md",
    "mediaType": "text/markdown",
    # Longer than the terminal is wide.
    "url": f"https://h.test/{'long/' * 15}summary.md",
    "size": 1234,
}
DONE = worker(output_text="Forty-**two**.", usage=USAGE, files=[FILE])

FIRST_STEP = [
    frame("start", "0.0.1.1", messageId="msg_1"),
    frame("start-step", "1.0.2.1"),
    frame("tool-input-start", "1.0.3.0", toolCallId="c1", toolName="run_command"),
    frame(
        "tool-input-available",
        "1.0.3.9",
        toolCallId="c1",
        toolName="run_command",
        input={"command": "wc -w README.md"},
    ),
]
TOOL_DONE = [
    frame("tool-output-available", "1.0.4.1", toolCallId="c1", output={"stdout": "42"}),
    frame("finish-step", "1.0.5.1"),
    frame("start-step", "1.0.6.1"),
    frame("text-start", "1.0.7.0", id="7"),
    frame("text-delta", "1.0.7.6", id="7", delta="Forty-"),
]
REST = [
    frame("text-delta", "1.0.7.14", id="7", delta="**two**."),
    frame("text-end", "1.0.7.15", id="7"),
    frame("finish-step", "1.0.8.1"),
    frame("data-worker", "1.0.9.1", data=DONE, transient=True),
    frame("finish", "1.0.10.1"),
]


def in_terminal(*arguments: str, base_url: str, **environment: str) -> Terminal:
    """A command in a pseudo-terminal."""
    return Terminal(command(*arguments), surroundings(base_url, **environment))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "handinger", *arguments]


def surroundings(base_url: str, **environment: str) -> dict[str, str]:
    known = {"HANDINGER_API_KEY": KEY, "HANDINGER_BASE_URL": base_url}
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **known, **environment}


def test_the_terminal_shows_a_turn_while_it_runs(stub: Stub):
    tool, answer = threading.Event(), threading.Event()
    stub.on(POST, events(*FIRST_STEP, hold=tool, cut=True))
    stub.on(UPDATES, events(*TOOL_DONE, hold=answer, cut=True), events(*REST))
    terminal = in_terminal("workers", "create", "--input", "a", "--stream", base_url=stub.url)

    # The tool that runs, with what it was given, and the time that passes.
    terminal.read_until("wc -w README.md")
    terminal.read_until("working")
    assert re.search(r"[⠀-⣿] run_command  \d+\.\d s", terminal.text)
    tool.set()
    # The tool that is done stays; the text that grows is there before it is whole.
    terminal.read_until("✓ run_command")
    terminal.read_until("Forty-")
    assert "two" not in terminal.text
    answer.set()

    assert terminal.finish() == 0
    end = terminal.text[terminal.text.rindex("Forty-") :]
    assert end.splitlines()[0].strip() == "Forty-two."
    assert f"file  summary.md  1.2 kB  {FILE['url']}" in end
    assert "demo · 2 steps · 1,234 tokens · $0.0123 · 1 min 05 s" in end
    assert f'handinger workers continue {WORKER_ID} --input "..."' in end
    assert b"\x1b[1m" in terminal.written
    # The cursor that the live view hides is shown again.
    assert terminal.written.rindex(b"\x1b[?25h") > terminal.written.rindex(b"\x1b[?25l")


def test_a_terminal_without_colour_and_a_failed_turn(stub: Stub):
    failed = worker(error={"code": "model_error", "message": "No \x1b]0;title\x07model."})
    end = [
        frame("data-worker", "1.0.9.1", data=failed, transient=True),
        frame("error", "1.0.10.1", errorText="No model."),
    ]
    stub.on(POST, events(*FIRST_STEP, *end))
    terminal = in_terminal(
        "workers", "create", "--input", "a", "--stream", base_url=stub.url, NO_COLOR="1"
    )
    assert terminal.finish() == 1
    assert "failed: model_error: No ]0;titlemodel." in terminal.text
    assert b"\x1b]0;" not in terminal.written
    assert re.search(rb"\x1b\[[0-9;]*3[0-7]", terminal.written) is None


def test_no_line_is_lost_while_the_view_is_drawn_anew(monkeypatch: pytest.MonkeyPatch):
    """Drawing and printing come from two threads; here they meet all the time."""
    monkeypatch.setattr(live, "_REFRESHES_PER_S", 10_000)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    written = io.StringIO()
    try:
        console = Console(file=written, force_terminal=True, width=80, height=24)
        live.LiveView(console).follow(_tool_after_tool(300))
    finally:
        sys.setswitchinterval(interval_s)
    shown = re.findall(r"✓ tool_(\d+) ", "\n".join(replay(written.getvalue())))
    assert shown == [str(number) for number in range(300)]


def _tool_after_tool(count: int) -> Iterator[Event]:
    yield Event(None, "start", {"type": "start", "messageId": "msg_1"})
    for number in range(count):
        call = {"toolCallId": f"c{number}", "toolName": f"tool_{number}"}
        for type, more in (
            ("start-step", {}),
            ("tool-input-available", {**call, "input": {}}),
            ("tool-output-available", {"toolCallId": f"c{number}", "output": 1}),
            ("finish-step", {}),
        ):
            yield Event(None, type, {"type": type, **more})
    yield Event(None, "finish", {"type": "finish"})


def replay(written: str) -> list[str]:
    """What stands on an endless screen after this, of which the view uses these few controls."""
    lines, row = [""], 0
    for control, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", written):
        if control == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif control == "\x1b[1A":
            row -= 1
        elif control == "\x1b[2K":
            lines[row] = ""
        lines[row] += text
    return lines


@pytest.mark.skipif(not has_tmux(), reason="tmux is not installed")
@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        pytest.param(120, 30, id="wide"),
        # On a real server both are in the default run.
        pytest.param(40, 20, id="narrow", marks=pytest.mark.slow),
    ],
)
def test_the_screen_is_whole_at_every_moment(stub: Stub, tmp_path: Path, columns: int, rows: int):
    tool, answer, rest = threading.Event(), threading.Event(), threading.Event()
    lines = "".join(f"Line {number} of the answer.\n\n" for number in range(30))
    growing = [
        frame("text-delta", "1.0.7.20", id="7", delta=f"**two**.\n\n{lines}"),
        frame("text-delta", "1.0.7.900", id="7", delta="The last one"),
    ]
    place = {"workerId": WORKER_ID, "turnId": TURN_ID}
    start = frame("start", "0.0.1.1", messageId="msg_1", messageMetadata=place)
    caps = {"name": "low", "modelCalls": 4, "usd": 0.05, "seconds": 600}
    stub.on("GET /api/budgets", reply({"budgets": [caps]}))
    turn = {"id": TURN_ID, "budget": "low", "usage": {"costUsd": 0.02}}
    stub.on(f"GET /api/workers/{WORKER_ID}/turns/{TURN_ID}", *[reply(turn)] * 500)
    stub.on(POST, events(start, *FIRST_STEP[1:], hold=tool, cut=True))
    stub.on(
        UPDATES,
        events(*TOOL_DONE, hold=answer, cut=True),
        events(*growing, hold=rest, cut=True),
        events(*REST[1:]),
    )
    screen = Screen(
        command("workers", "create", "--input", "a"),
        surroundings(stub.url),
        columns=columns,
        rows=rows,
        folder=tmp_path,
    )
    with screen:
        shown = screen.wait_for(
            "run_command", "wc -w README.md", "working  o opens tools", "1 call of 4"
        )
        assert re.match(r"[⠀-⣿] run_command  \d+\.\d s  wc -w README\.md", shown[0])
        meter = next(line for line in shown if "1 call of 4" in line)
        assert ("━" in meter) == (columns > 60)  # no room for a bar
        assert "1 call of 4 · $0.0200 of $0.0500" in meter
        screen.type("o")
        shown = screen.wait_for("o closes tools")
        assert any('"command": "wc -w README.md"' in line for line in shown)
        screen.type("o")
        screen.wait_for("o opens tools")

        tool.set()
        shown = screen.wait_for("✓ run_command", "Forty-")
        # What is final stands once, above what may still change.
        assert sum("run_command" in line for line in shown) == 1
        assert shown.index(next(line for line in shown if "Forty-" in line)) > 0

        answer.set()
        shown = screen.wait_for("The last one", "working")
        # However long the text is, its end is there, and so is what stands below it.
        assert "Line 29 of the answer." in shown
        assert len(shown) <= rows

        rest.set()
        shown = screen.wait_for("[0]")
        assert not any("working" in line or "opens tools" in line for line in shown)
        whole = "".join(line.ljust(columns) if line else " " for line in shown)
        assert f"file  summary.md  1.2 kB  {FILE['url']}" in whole
        assert "demo · 2 steps · 1,234 tokens · $0.0123 · 1 min 05 s" in whole
        assert f'continue: handinger workers continue {WORKER_ID} --input "..."' in whole
        assert sum("The last one" in line for line in shown) == 1


def test_a_file_comes_with_a_bar_and_its_name_is_no_markup(stub: Stub, tmp_path: Path):
    stub.on(f"{ONE}/files/a%5B/b%5D.txt", raw(b"x" * 2000))
    terminal = in_terminal(
        *("workers", "retrieve-file", WORKER_ID, "a[/b].txt", "-o", str(tmp_path / "copy")),
        base_url=stub.url,
    )
    assert terminal.finish() == 0, terminal.text
    assert f"Wrote {tmp_path / 'copy'} (2.0 kB)." in terminal.text
    assert (tmp_path / "copy").read_bytes() == b"x" * 2000


def test_ctrl_c_in_a_terminal_detaches_and_twice_cancels(stub: Stub):
    hold = threading.Event()
    stub.on(POST, *[events(*FIRST_STEP, hold=hold)] * 2)
    stub.on(f"POST /api/workers/{WORKER_ID}/cancel", reply(worker()))
    arguments = ("workers", "create", "--input", "a")
    detached = in_terminal(*arguments, base_url=stub.url)
    detached.read_until("wc -w README.md")
    detached.type("\x03")
    assert detached.finish() == 130
    assert "Detached; the turn goes on." in detached.text
    assert (
        f"come back: handinger workers stream-updates {WORKER_ID} --last-event-id " in detached.text
    )
    assert "cancel" not in "".join(request.target for request in stub.requests)

    cancelled = in_terminal(*arguments, base_url=stub.url)
    cancelled.read_until("wc -w README.md")
    cancelled.type("\x03")
    cancelled.read_until("stop it:")
    cancelled.type("\x03")
    assert cancelled.finish() == 130
    assert "Cancelled." in cancelled.text
    assert stub.requests[-1].target == f"/api/workers/{WORKER_ID}/cancel"
    assert stub.requests[-1].json == {"turnId": TURN_ID}
    for terminal in (detached, cancelled):
        assert "Traceback" not in terminal.text
        # The cursor that the live view hides is shown again.
        assert terminal.written.rindex(b"\x1b[?25h") > terminal.written.rindex(b"\x1b[?25l")
    hold.set()


def test_a_retry_withdraws_text_before_it_stays(cli: Cli, stub: Stub):
    retry = frame("data-retry", "1.1.5.1", data={"messageId": "msg_1"}, transient=True)
    wrong = [
        frame("start-step", "1.0.6.1"),
        frame("text-start", "1.0.7.0", id="7"),
        frame("text-delta", "1.0.7.5", id="7", delta="Wrong"),
        frame("text-end", "1.0.7.6", id="7"),
    ]
    stub.on(POST, events(*FIRST_STEP, *TOOL_DONE[:2], *wrong, retry, *TOOL_DONE[2:], *REST))
    status, out, _ = cli("workers", "create", "--input", "a", "--stream", "--format", "pretty")
    assert status == 0
    assert "Wrong" not in out
    assert out.count("Forty-two.") == 1
    assert out.index("run_command") < out.index("Forty-two.")


def test_a_tool_takes_one_line_and_a_source_is_whole(cli: Cli, stub: Stub):
    url = f"https://h.test/{'long/' * 20}"
    told = {"toolCallId": "c1", "toolName": "run_command"}
    stub.on(
        POST,
        events(
            FIRST_STEP[0],
            frame("tool-input-available", "1.0.2.1", **told, input={"command": "word " * 40}),
            frame("tool-output-error", "1.0.3.1", toolCallId="c1", errorText="It broke. " * 20),
            frame("source-url", "1.0.4.1", sourceId="src_1", url=url, title="A page"),
            frame("finish-step", "1.0.5.1"),
            *REST[-2:],
        ),
    )
    _, out, _ = cli("workers", "create", "--input", "a", "--stream", "--format", "pretty")
    lines = out.splitlines()
    assert lines[0].startswith("✗ run_command")
    assert lines[0].endswith("…")
    assert lines[1] == f"  source  A page  {url}"


def test_the_conversation_is_shown_before_what_runs(cli: Cli, stub: Stub):
    def said(role: str, text: str) -> bytes:
        message = {"id": f"msg_{text}", "role": role, "parts": [{"type": "text", "text": text}]}
        return frame("data-message", "0.0.0.1", turn="trn_1", data=message, transient=True)

    stub.on(
        UPDATES, events(said("user", "Question?"), said("assistant", "Answer."), *turn_frames())
    )
    status, out, _ = cli("workers", "stream-updates", WORKER_ID, "--format", "pretty")
    assert status == 0
    assert out.index("> Question?") < out.index("Answer.") < out.index("Forty-two.")


def test_a_worker_for_a_person(cli: Cli, stub: Stub):
    cut_short = {**DONE, "incomplete_details": {"reason": "budget_exhausted"}}
    stub.on(ONE, reply(cut_short))
    _, out, _ = cli("workers", "retrieve", WORKER_ID, "--format", "pretty")
    assert "Forty-two." in out
    assert "cut short: budget_exhausted" in out
    assert "summary.md" in out
    assert f"handinger workers continue {WORKER_ID}" in out


def test_the_price_is_that_of_the_turn_where_it_is_told(cli: Cli, stub: Stub):
    turn = {"steps": 1, "totalTokens": 10, "costUsd": 0, "durationMs": 900}
    message = {"id": "m", "role": "assistant", "parts": [], "metadata": {"usage": turn}}
    stub.on(ONE, reply({**DONE, "messages": [message]}))
    _, out, _ = cli("workers", "retrieve", WORKER_ID, "--format", "pretty")
    assert "demo · 1 step · 10 tokens · $0.00 · 0.9 s" in out


def test_workers_for_a_person(cli: Cli, stub: Stub):
    failed = worker(id="wrk_2", error={"code": "timeout", "message": "Late."}, output_text="a\nb")
    stub.on("GET /api/workers", reply({"workers": [DONE, failed], "nextCursor": "c2"}))
    _, out, err = cli("workers", "list", "--format", "pretty")
    rows = out.splitlines()
    assert rows[0].split() == ["worker", "status", "age", "USD", "answer"]
    assert rows[1].split()[:2] == [WORKER_ID, "completed"]
    assert rows[2].split()[:2] == ["wrk_2", "failed"]
    assert rows[2].rstrip().endswith("a b")
    assert err == "More: handinger workers list --cursor c2\n"


def test_no_workers_for_a_person(cli: Cli, stub: Stub):
    stub.on("GET /api/workers", reply({"workers": [], "nextCursor": None}))
    assert cli("workers", "list", "--format", "pretty")[1] == "No workers yet.\n"


def test_a_deletion_for_a_person(cli: Cli, stub: Stub):
    stub.on(f"DELETE /api/workers/{WORKER_ID}", reply({"deleted": True}))
    status, out, err = cli("workers", "delete", WORKER_ID, "--format", "pretty")
    assert (status, out, err) == (0, "", f"Deleted {WORKER_ID}.\n")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"command": "ls -la"}, "ls -la"),
        ({"path": "a.md", "content": "x\ny"}, "path=a.md  content=x y"),
        ({"content": "x" * 100, "path": "a"}, f"content={'x' * 59}…  path=a"),
        ({}, ""),
        (None, ""),
        ("raw text", "raw text"),
    ],
)
def test_what_a_tool_was_given_fits_on_a_line(value: object, expected: str):
    assert short_input(value) == expected  # pyright: ignore[reportArgumentType] # JSON, all of it


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (wording.duration(0.04), "0.0 s"),
        (wording.duration(59.94), "59.9 s"),
        (wording.duration(59.96), "1 min 00 s"),
        (wording.duration(3599.6), "1 h 00 min"),
        (wording.duration(7860), "2 h 11 min"),
        (wording.span(60), "1m"),
        (wording.span(5430), "1h30m30s"),
        (wording.span(172_800), "2d"),
        (wording.money(0), "$0.00"),
        (wording.money(0.00004), "<$0.0001"),
        (wording.money(0.0123), "$0.0123"),
        (wording.money(12.345), "$12.35"),
        (wording.bytes_size(999), "999 B"),
        (wording.bytes_size(1500), "1.5 kB"),
        (wording.bytes_size(104_857_600), "104.9 MB"),
        (wording.counted(1, "step"), "1 step"),
        (wording.counted(1234, "token"), "1,234 tokens"),
        (wording.printable("a\x1b[31mb\tc\nd\x07\x9b"), "a[31mb\tc\nd"),
        (wording.printable("a\u202eb\u2066c"), "abc"),
        (wording.one_line("  a\n\n b "), "a b"),
    ],
)
def test_numbers_and_texts_are_shown_for_people(shown: str, expected: str):
    assert shown == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(100, "100 s"), (7000, "116 min"), (90_000, "25 h"), (900_000, "10 d"), (-900, "0 s")],
)
def test_an_age_is_told_in_its_own_unit(
    monkeypatch: pytest.MonkeyPatch, seconds: int, expected: str
):
    monkeypatch.setattr("handinger.cli.wording.time.time", lambda: 1_000_000_000.5)
    assert wording.age(1_000_000_000 - seconds) == expected
