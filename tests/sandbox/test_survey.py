"""What `handinger doctor` says of hosts, by what they offer."""

from pathlib import Path

import pytest

from handinger import settings
from handinger.sandbox import cgroups
from handinger.sandbox.limits import Limits
from handinger.sandbox.survey import Finding, examine
from tests.support.hosts import require_sandboxes

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
