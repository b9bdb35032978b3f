"""The command tool: a shell in the worker's sandbox."""

import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_ai import RunContext, Tool, ToolFailed

from handinger import files
from handinger.agent.shell import Ran, Shell
from handinger.agent.tools.context import (
    Effects,
    ToolContext,
    ToolPrice,
    effects,
    mark,
    reserved_nano,
)
from handinger.budgets import Spending
from handinger.files import Change, Collected, FileError
from handinger.files.paths import spelled
from handinger.ids import WorkerId
from handinger.sandbox.process import SandboxError, StopReason
from handinger.settings import Settings

# So much of a stream is shown to the model; the whole is in a file then.
_MAX_CHARACTERS = 20_000
_HEAD_SHARE = 0.5
_MAX_CHARACTER_BYTES = 4  # in UTF-8
_OUTPUT_FOLDER = "scratchpad/output"
_MAX_LISTED = 50
# A system call takes no longer argument, and the shell's is one.
_MAX_COMMAND_BYTES = 128 * 1024 - 1
# So much of a turn's time for tools is kept to store what the command did.
_MARGIN_S = 3.0

# So long it may take to stop a command that is late; a shorter time than the other is of no use.
_STOPPING_S = 5.0
_LEAST_PAID_S = 1.0
_NEGLIGIBLE_S = 0.001  # rounding

# By what had set the time.
_LATE = {
    "call": "It did not end within {timeout:g} s and was stopped. Give it more time with "
    "timeout_seconds (up to {max_timeout}), or run it in the background and ask for it later.",
    "server": "It did not end within {timeout:g} s, the most that a command may take, and was "
    "stopped. Do it in smaller pieces, or run it in the background and ask for it later.",
    "turn": "It was stopped after {timeout:g} s, because the time of this turn is nearly used up. "
    "There is no more, whatever timeout_seconds says: conclude with what you have.",
    "money": "It was stopped after {timeout:g} s, because {purse} does not cover more time of "
    "commands. There is no more, whatever timeout_seconds says: go on with what you have, and say "
    "in your answer that the money ran out.",
}
_STOPPED = {
    "output": "It wrote more than {output_bytes} bytes of output and was stopped. Redirect its "
    "output to a file, or make it say less.",
    "memory": "It used more memory than the {memory_mib} MiB that the sandbox has, and was stopped."
    " Work on smaller pieces.",
    "processes": "It started more processes and threads than the {processes} that the sandbox may "
    "have. Everything in the sandbox was stopped.",
    "cpu": "It used the {cpu_s} s of processor time that one process may have, and was stopped. Do "
    "less at a time, with files for what is done.",
    "file": "It made a file larger than {file_bytes} bytes, which no file may be, and was stopped. "
    "Divide it.",
    "disk": "The disk of the sandbox is full ({disk_mib} MiB, or {disk_entries} files and folders, "
    "temporary ones included). Everything in the sandbox was stopped. Remove what is not needed.",
    "memory_reserve": "The memory of the host is nearly used up: less than {memory_reserve_mib} "
    "MiB are available. Everything in the sandbox was stopped. Work on smaller pieces, and try "
    "again later.",
    "disk_reserve": "The disk of the host is nearly full: less than {disk_reserve_mib} MiB are "
    "free. Everything in the sandbox was stopped. Its operator has to make room; remove what is "
    "not needed, or do without.",
}


async def run_command(
    ctx: RunContext[ToolContext],
    command: str,
    timeout_seconds: Annotated[float, Field(gt=0)] = 60,
) -> dict[str, Any]:
    """Run a shell command in your sandbox, in your workspace, and wait for its end.

    Files that it makes or changes there are kept and published like those of write_file. There is
    no network. What you leave running in the background lives until your turn ends.
    """
    shell = _shell(ctx)
    if not command.strip() or "\0" in command:
        raise ToolFailed("A command is needed, without NUL characters.")
    if len(command.encode(errors="replace")) > _MAX_COMMAND_BYTES:
        raise ToolFailed("The command is too long; write it to a file, and run that.")
    time_limit = _time_limit(ctx, timeout_seconds)
    try:
        await shell.prepare()
        ran = await _run_metered(ctx, shell, command, time_limit.seconds)
    except SandboxError as error:
        raise ToolFailed(
            f"{error} How far the command came is not known. The next command has new processes, "
            "and finds the files as this one left them."
        ) from error
    effect = effects(ctx)
    done = effects_of(ctx.deps.workspace.worker_id, ran.collected)
    effect.files += done.files
    effect.writes += done.writes
    return await _result(ctx, ran, time_limit)


def _shell(ctx: RunContext[ToolContext]) -> Shell:
    shell = ctx.deps.shell
    if shell is None:
        raise ToolFailed("This server has no sandbox to run commands in.")
    return shell


@dataclass(frozen=True, slots=True)
class _TimeLimit:
    seconds: float
    setter: Literal["call", "server", "turn", "money"]


def _time_limit(ctx: RunContext[ToolContext], wanted_s: float) -> _TimeLimit:
    """What the command may take: as asked, within the server's limit, the turn's time and money."""
    deps = ctx.deps
    limits = [
        _TimeLimit(deps.settings.sandbox_timeout_s, "server"),
        _TimeLimit(wanted_s, "call"),
    ]
    if deps.tools_end_at is not None:
        left_s = (deps.tools_end_at - datetime.now(UTC)).total_seconds()
        limits.append(_TimeLimit(max(1.0, left_s - _MARGIN_S), "turn"))
    least = min(limits, key=lambda limit: limit.seconds)
    reserved = reserved_nano(ctx)
    if reserved is None:
        return least
    # The clock runs on a little until a command that is late has stopped.
    paid_s = reserved / (deps.settings.sandbox_usd_per_second * 1e9) - _STOPPING_S
    if paid_s + _NEGLIGIBLE_S < min(least.seconds, _LEAST_PAID_S):
        raise ToolFailed(
            f"This command was not run, because {deps.purse} does not cover enough of its time "
            "beside the answer. Go on without it."
        )
    return least if paid_s + _NEGLIGIBLE_S >= least.seconds else _TimeLimit(paid_s, "money")


def _most_nano(settings: Settings, arguments: Mapping[str, Any]) -> int:
    """What a command may cost: all the time that it may take, and that of stopping it."""
    asked = arguments.get("timeout_seconds", 60)
    # What is no number is refused before it runs.
    is_number = isinstance(asked, int | float) and 0 < asked < settings.sandbox_timeout_s
    seconds = (asked if is_number else settings.sandbox_timeout_s) + _STOPPING_S
    return math.ceil(seconds * settings.sandbox_usd_per_second * 1e9)


async def _run_metered(
    ctx: RunContext[ToolContext], shell: Shell, command: str, timeout_s: float
) -> Ran:
    """Run it, and book its time whatever becomes of it; never more than was reserved."""
    effect, price_usd = effects(ctx), ctx.deps.settings.sandbox_usd_per_second
    reserved = reserved_nano(ctx) or 0
    began = time.monotonic()
    seconds: float | None = None
    try:
        ran = await shell.run(command, timeout_s=timeout_s)
        seconds = ran.execution.seconds
        return ran
    finally:
        if seconds is None:
            seconds = time.monotonic() - began
        nano = min(round(seconds * price_usd * 1e9), reserved)
        effect.spending += Spending(sandbox_cost_nano=nano)


def effects_of(worker_id: WorkerId, collected: Collected) -> Effects:
    """What a command did to the files, to be stored with its result."""
    effect = Effects(files=list(collected.changes))
    if collected.removed:
        paths = collected.removed
        effect.writes.append(functools.partial(files.remove, worker_id=worker_id, paths=paths))
    return effect


async def _result(ctx: RunContext[ToolContext], ran: Ran, time_limit: _TimeLimit) -> dict[str, Any]:
    execution = ran.execution
    notes: list[str] = []
    if execution.stopped is not None:
        notes.append(_why_stopped(ctx.deps, execution.stopped, time_limit))
    result: dict[str, Any] = {"exit_code": execution.exit_code}
    for name, content in (("stdout", execution.stdout), ("stderr", execution.stderr)):
        text, is_cut = _shown(content)
        if "\ufffd" in text:
            notes.append(f"The bytes of {name} that are not UTF-8 are shown as \ufffd.")
        if is_cut:
            notes.append(await _keep(ctx, name, content))
        result[name] = text
    changed = _listed(ran.collected.changes, ran.collected.removed)
    if changed:
        result["files"] = changed
    notes.extend(ran.collected.notes)
    if notes:
        result["notes"] = notes
    return result


def _why_stopped(deps: ToolContext, reason: StopReason, time_limit: _TimeLimit) -> str:
    settings = deps.settings
    told = _LATE[time_limit.setter] if reason == "timeout" else _STOPPED[reason]
    return told.format(
        timeout=round(time_limit.seconds, 1),
        purse=deps.purse,
        max_timeout=settings.sandbox_timeout_s,
        output_bytes=settings.sandbox_output_bytes,
        memory_mib=settings.sandbox_memory_bytes // (1024 * 1024),
        processes=settings.sandbox_processes,
        cpu_s=settings.sandbox_cpu_s,
        file_bytes=settings.max_file_bytes,
        disk_mib=settings.sandbox_disk_bytes // (1024 * 1024),
        disk_entries=settings.sandbox_disk_entries,
        memory_reserve_mib=settings.sandbox_memory_reserve_bytes // (1024 * 1024),
        disk_reserve_mib=settings.sandbox_disk_reserve_bytes // (1024 * 1024),
    )


def _shown(content: bytes) -> tuple[str, bool]:
    """A stream as text, and whether it is cut: of a long one only both ends are decoded."""
    if len(content) <= _MAX_CHARACTERS * _MAX_CHARACTER_BYTES:
        text = content.decode(errors="replace")
        if len(text) <= _MAX_CHARACTERS:
            return text, False
    head = int(_MAX_CHARACTERS * _HEAD_SHARE)
    tail = _MAX_CHARACTERS - head
    begins = content[: head * _MAX_CHARACTER_BYTES].decode(errors="replace")[:head]
    # One character more, of which a part may be cut off.
    ends = content[-(tail + 1) * _MAX_CHARACTER_BYTES :].decode(errors="replace")[-tail:]
    return f"{begins}\n[... cut here; {len(content)} bytes in all ...]\n{ends}", True


async def _keep(ctx: RunContext[ToolContext], name: str, content: bytes) -> str:
    """Put all of a long stream into the workspace, and say where it is."""
    path = f"{_OUTPUT_FOLDER}/{mark(ctx)}-{name}.txt"
    try:
        effects(ctx).files.append(await ctx.deps.workspace.prepare(path, content))
    except FileError as error:
        return f"{name} is cut, and the rest of it is lost: {error}"
    return f"{name} is cut; all of it is in {path}."


def _listed(changes: Sequence[Change], removed: Sequence[str]) -> list[str]:
    """What became of the files, in as few words as are needed."""
    lines = [
        f"{spelled(each.path)} ({each.size} bytes, {'published' if each.published else 'kept'})"
        for each in sorted(changes, key=lambda change: (not change.published, change.path))
    ]
    lines += [f"{spelled(path)} (removed)" for path in removed]
    if len(lines) > _MAX_LISTED:
        lines[_MAX_LISTED:] = [f"and {len(lines) - _MAX_LISTED} more"]
    return lines


def tools() -> list[Tool[ToolContext]]:
    """Nobody knows what a command did that was interrupted, so none is repeated.

    One at a time: each works on the files that the one before it left.
    """
    price = ToolPrice("sandbox", _most_nano, is_divisible=True, is_metered=True)
    return [Tool(run_command, sequential=True, metadata={"price": price})]
