"""What `handinger doctor` says of hosts, by what they offer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from handinger import settings
from handinger.sandbox import cgroups
from handinger.sandbox.limits import Limits
from handinger.sandbox.survey import Finding, examine
from tests.support.hosts import require_sandboxes
from tests.support.nobody import ordinary_folder

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _needs_sandboxes():
    require_sandboxes()


class Hierarchy:
    """One that has no groups to give; it is only asked what it could."""

    description = "version 2"

    def __init__(self, *controllers: str) -> None:
        self.controllers = controllers

    def create(self, name: str, limits: Limits) -> cgroups.Group:
        del name, limits
        return Group()

    def remove(self, prefix: str) -> None:
        del prefix


class Group:
    def add(self, pid: int) -> None:
        del pid

    def out_of_memory_kills(self) -> int:
        return 0

    def remove(self) -> None:
        """There is nothing."""


async def findings(
    monkeypatch: pytest.MonkeyPatch, folder: Path, found: cgroups.Hierarchy | None
) -> dict[str, Finding]:
    monkeypatch.setattr(cgroups, "find", lambda: found)
    seen = await examine(settings.load(data_dir=folder))
    assert seen.host is not None
    return {finding.name: finding for finding in seen.findings}


async def test_a_host_with_control_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    seen = await findings(monkeypatch, tmp_path, Hierarchy("memory", "pids", "cpu"))
    for name in ("memory", "processes", "processors"):
        assert (seen[name].state, seen[name].advice) == ("yes", "")
    assert "1024 MiB a sandbox, held by the kernel" in seen["memory"].detail


async def test_a_host_whose_groups_lack_a_controller(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    seen = await findings(monkeypatch, tmp_path, Hierarchy("memory", "pids"))
    assert [seen[name].state for name in ("memory", "processes", "processors")] == [
        "yes",
        "yes",
        "partly",
    ]
    assert "Delegate=yes" in seen["processors"].advice


async def test_a_host_without_control_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As an ordinary user has it, in a container above all: it says what bounds what then."""
    seen = await findings(monkeypatch, tmp_path, None)
    for name in ("memory", "processes", "processors"):
        assert seen[name].state == "partly"
        assert "Delegate=yes" in seen[name].advice
    assert "looked at five times a second" in seen["memory"].detail
    assert "the kernel holds each process to it" in seen["memory"].detail
    assert "256 a sandbox" in seen["processes"].detail


def doctor(path: str, tmp_path: Path) -> tuple[int, list[dict[str, str]]]:
    """The command itself, with this PATH: its exit status, and what it found."""
    (tmp_path / "data").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "handinger", "doctor", "--format", "json"],
        env={"PATH": path, "HANDINGER_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_the_doctor_says_what_works(tmp_path: Path):
    status, found = doctor(os.environ["PATH"], tmp_path)
    assert status == 0
    states = {finding["name"]: finding["state"] for finding in found}
    for name in ("commands", "user", "files", "network", "disk"):
        assert states[name] == "yes"
    for finding in found:
        assert finding["detail"]
        # What does not work wholly comes with what to do.
        assert finding["state"] == "yes" or finding["advice"]


def test_the_doctor_says_that_bubblewrap_is_missing(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    status, found = doctor(str(tmp_path / "empty"), tmp_path)
    assert status == 1
    (finding,) = found
    assert (finding["name"], finding["state"]) == ("bubblewrap", "no")
    assert "apt install bubblewrap" in finding["advice"]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("bwrap: No permissions to create new namespace", "unprivileged_userns_clone"),
        ("bwrap: setting up uid map: Permission denied", "apparmor_restrict"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "systempaths"),
    ],
)
def test_the_doctor_says_why_namespaces_are_forbidden(tmp_path: Path, said: str, advice: str):
    """A host that forbids them, as bubblewrap tells of it."""
    with ordinary_folder() as folder:
        bwrap = folder / "bwrap"
        bwrap.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
        bwrap.chmod(0o755)
        status, found = doctor(f"{folder}:{os.environ['PATH']}", tmp_path)
    assert status == 1
    (finding,) = found
    assert finding["state"] == "no"
    assert said in finding["detail"]
    assert advice in finding["advice"]


async def test_a_disk_with_little_left_is_told(tmp_path: Path):
    configured = settings.load(data_dir=tmp_path, sandbox_disk_reserve_bytes=1 << 60)
    found = {finding.name: finding for finding in (await examine(configured)).findings}
    assert found["disk"].state == "no"
    assert "HANDINGER_SANDBOX_DISK_RESERVE_BYTES" in found["disk"].advice


async def test_memory_with_little_left_is_told_where_nobody_counts_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    configured = settings.load(data_dir=tmp_path, sandbox_memory_reserve_bytes=1 << 60)
    for found, state in ((None, "no"), (Hierarchy("memory", "pids", "cpu"), "yes")):
        monkeypatch.setattr(cgroups, "find", lambda found=found: found)
        seen = {finding.name: finding for finding in (await examine(configured)).findings}
        assert seen["memory"].state == state
        told = "HANDINGER_SANDBOX_MEMORY_RESERVE_BYTES" in seen["memory"].advice
        assert told is (state == "no")
