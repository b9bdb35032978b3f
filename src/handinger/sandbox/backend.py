"""A sandbox as pydantic-ai's `WorkspaceBackend`: the door for everything that speaks that protocol.

It offers commands only. Whoever wants files through it gets them by commands in the sandbox, so
that no path of a sandbox is ever resolved outside of it.
"""

import asyncio
from collections.abc import Mapping

from pydantic_ai.messages import WorkspaceRef
from pydantic_ai.workspaces import (
    CommandResult,
    SupportsCommands,
    WorkspaceBackend,
    WorkspaceCommand,
    WorkspaceOutputLimitError,
    WorkspaceTimeoutError,
    WorkspaceUnavailableError,
)
from pydantic_ai.workspaces.protocol import validate_timeout

from handinger.sandbox.bubblewrap import WORKING_DIR
from handinger.sandbox.process import SandboxError
from handinger.sandbox.sandbox import Sandbox, Sandboxes

PROVIDER = "handinger-bubblewrap"
_PREVIEW_BYTES = 64 * 1024


class BubblewrapBackend(WorkspaceBackend, SupportsCommands):
    """The environment is a sandbox of this process; its ref names it for as long as it is open."""

    def __init__(self, sandboxes: Sandboxes, ref: WorkspaceRef | None = None) -> None:
        self._sandboxes = sandboxes
        self._ref = ref
        self._lock = asyncio.Lock()

    @property
    def ref(self) -> WorkspaceRef | None:
        """None until the first operation has made the environment."""
        return self._ref

    async def working_dir(self) -> str:
        """The folder that commands begin in, as they see it."""
        await self._sandbox()
        return WORKING_DIR

    async def run(
        self,
        command: WorkspaceCommand,
        *,
        shell: bool = False,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 # The protocol's.
    ) -> CommandResult:
        """See the protocol. Output over the limit stops the command and is an error."""
        validate_timeout(timeout)
        if isinstance(command, str) is not shell:
            raise TypeError("a string command needs shell=True, and a list of arguments needs none")
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        sandbox = await self._sandbox()
        try:
            done = await sandbox.execute(argv, environment=env, timeout_s=timeout)
        except SandboxError as error:
            raise WorkspaceUnavailableError(str(error)) from error
        stdout = done.stdout.decode(errors="replace")
        stderr = done.stderr.decode(errors="replace")
        if done.stopped == "timeout":
            raise WorkspaceTimeoutError(
                f"the command did not end within {timeout} s and was stopped",
                stdout=stdout,
                stderr=stderr,
            )
        if done.stopped == "output":
            limit = self._sandboxes.limits.output_bytes
            raise WorkspaceOutputLimitError(
                f"the command wrote more than {limit} bytes and was stopped; redirect its output "
                "to a file and read parts of that",
                limit=limit,
                stdout=done.stdout[:_PREVIEW_BYTES].decode(errors="replace"),
                stderr=done.stderr[:_PREVIEW_BYTES].decode(errors="replace"),
            )
        return CommandResult(exit_code=done.exit_code, stdout=stdout, stderr=stderr)

    async def _sandbox(self) -> Sandbox:
        async with self._lock:
            if self._ref is None:
                sandbox = self._sandboxes.create()
                self._ref = WorkspaceRef(provider=PROVIDER, id=sandbox.name)
            else:
                found = None
                if self._ref.provider == PROVIDER:
                    found = self._sandboxes.find(self._ref.id)
                if found is None:
                    raise WorkspaceUnavailableError(f"there is no sandbox {self._ref.id!r}")
                sandbox = found
        try:
            await sandbox.start()
        except SandboxError as error:
            raise WorkspaceUnavailableError(str(error)) from error
        return sandbox
