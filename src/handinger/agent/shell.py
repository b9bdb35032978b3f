"""A turn's shell: the sandbox of one turn, with the worker's files in it.

The sandbox starts with the first command and ends with the turn. What a command did to the files is
handed to the caller, who stores it together with the command's result.
"""

import asyncio
import logging
from dataclasses import dataclass

from handinger.files import Checkout, Collected, Tree, Workspace
from handinger.sandbox.process import Execution
from handinger.sandbox.sandbox import Sandbox, Sandboxes
from handinger.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that was carried out, and what it did to the files."""

    execution: Execution
    collected: Collected


class Shell:
    """For one turn, and for one command at a time."""

    def __init__(self, sandboxes: Sandboxes, workspace: Workspace, settings: Settings) -> None:
        self._sandboxes = sandboxes
        self._workspace = workspace
        self._settings = settings
        self._sandbox: Sandbox | None = None
        self._checkout: Checkout | None = None
        self._lock = asyncio.Lock()

    async def prepare(self) -> None:
        """Have a sandbox with the files as the manifest has them. Raises SandboxError, OSError."""
        async with self._lock:
            if self._sandbox is None or self._checkout is None:
                self._sandbox = await self._sandboxes.take()
                self._checkout = Checkout(
                    self._workspace,
                    Tree(self._sandbox.workspace, self._sandbox.uid),
                    max_published=self._settings.sandbox_max_published,
                )
            await self._checkout.update()

    async def run(self, command: str, *, timeout_s: float) -> Ran:
        """Run a command line in the prepared sandbox. Raises SandboxError, OSError."""
        async with self._lock:
            assert self._sandbox is not None
            assert self._checkout is not None
            execution = await self._sandbox.shell(command, timeout_s=timeout_s)
            return Ran(execution, await self._checkout.collect())

    async def close(self) -> None:
        """End everything that still runs. Calling it again does nothing."""
        if self._sandbox is not None:
            sandbox, self._sandbox = self._sandbox, None
            await self._sandboxes.close(sandbox)
