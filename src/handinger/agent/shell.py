"""A turn's shell: the sandbox of one turn, with the worker's files in it.

The sandbox starts with the first command and ends with the turn. What a command did to the files is
handed to the caller, who stores it together with the command's result; also when it was cut off.
"""

import asyncio
import logging
from dataclasses import dataclass

from handinger.files import Checkout, Collected, Tree, Workspace
from handinger.sandbox.process import Execution, SandboxError
from handinger.sandbox.sandbox import Sandbox, Sandboxes
from handinger.settings import Settings

logger = logging.getLogger(__name__)

_SALVAGE_S = 10.0


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
        self._was_cut_off = False  # in the middle of a command

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
            # Its processes may have been lost since; the time to start them is no command's.
            await self._sandbox.start()
            await self._checkout.update()

    async def run(self, command: str, *, timeout_s: float) -> Ran:
        """Run a command line in the prepared sandbox. Raises SandboxError, OSError."""
        async with self._lock:
            assert self._sandbox is not None
            assert self._checkout is not None
            try:
                execution = await self._sandbox.shell(command, timeout_s=timeout_s)
                return Ran(execution, await self._checkout.collect())
            except asyncio.CancelledError:
                self._was_cut_off = True
                raise

    async def salvage(self) -> Collected:
        """End everything that runs; what a command that was cut off had done to the files.

        Nothing if no command was, or if that cannot be found out in a short time.
        """
        if not self._was_cut_off or self._sandbox is None or self._checkout is None:
            return Collected()
        self._was_cut_off = False
        try:
            async with asyncio.timeout(_SALVAGE_S), self._lock:
                self._sandbox.stop("timeout")
                # It begins when all else has been killed, so nobody writes any more.
                await self._sandbox.execute(["true"])
                return await self._checkout.collect()
        except (TimeoutError, SandboxError, OSError) as error:
            logger.warning("The files of a command that was cut off are lost: %r", error)
            return Collected()

    async def close(self) -> None:
        """End everything that still runs. Calling it again does nothing."""
        if self._sandbox is not None:
            sandbox, self._sandbox = self._sandbox, None
            await self._sandboxes.close(sandbox)
