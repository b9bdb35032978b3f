"""Sandboxes on this host. Where it truly cannot make any, the tests say why and are skipped."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from handinger import settings
from handinger.sandbox import seccomp
from handinger.sandbox.folders import Folders
from handinger.sandbox.limits import Limits
from handinger.sandbox.process import Host
from handinger.sandbox.sandbox import Sandbox, Sandboxes
from handinger.sandbox.survey import base_folder, survey


@pytest.fixture(scope="package")
def folders() -> Iterator[Folders]:
    data_dir = Path(tempfile.mkdtemp(prefix="handinger-sandbox-"))
    folders = Folders.make(base_folder(settings.load(data_dir=data_dir)))
    yield folders
    folders.close()
    shutil.rmtree(data_dir)


@pytest.fixture(scope="package")
def host(folders: Folders) -> Host:
    found = asyncio.run(survey(settings.load(), folders))
    if found.host is None:
        pytest.skip(found.trouble)
    return found.host


@pytest.fixture
def limits() -> Limits:
    return Limits.of(settings.load())


@pytest.fixture
async def sandboxes(folders: Folders, host: Host, limits: Limits) -> AsyncIterator[Sandboxes]:
    sandboxes = Sandboxes(folders, host, limits)
    yield sandboxes
    await sandboxes.close_all()


@pytest.fixture
def sandbox(sandboxes: Sandboxes) -> Sandbox:
    return sandboxes.create()


@pytest.fixture
def little(limits: Limits) -> Limits:
    return replace(
        limits,
        memory_bytes=192 * 1024 * 1024,
        processes=24,
        file_bytes=4 * 1024 * 1024,
        disk_bytes=24 * 1024 * 1024,
        disk_entries=2000,
        output_bytes=256 * 1024,
    )


@pytest.fixture
async def small(folders: Folders, host: Host, little: Limits) -> AsyncIterator[Sandbox]:
    """A sandbox that may take little."""
    sandboxes = Sandboxes(folders, host, little)
    yield sandboxes.create()
    await sandboxes.close_all()


@pytest.fixture(params=["with groups", "without groups"])
async def held(
    request: pytest.FixtureRequest, folders: Folders, host: Host, little: Limits
) -> AsyncIterator[Sandbox]:
    """The same; also on a host where no control groups can be made."""
    if request.param == "without groups":
        host = replace(host, hierarchy=None, filter=seccomp.program(counted=False))
    elif host.hierarchy is None:
        pytest.skip("no control groups can be made here")
    sandboxes = Sandboxes(folders, host, little)
    yield sandboxes.create()
    await sandboxes.close_all()
