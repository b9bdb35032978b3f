"""pydantic-ai's own suite judges our backend, unchanged."""

from collections.abc import Awaitable, Callable

import pytest
from pydantic_ai.messages import WorkspaceRef
from pydantic_ai.workspaces import WorkspaceBackend
from pydantic_ai.workspaces.conformance import WorkspaceBackendSuite

from handinger.sandbox.backend import BubblewrapBackend
from handinger.sandbox.sandbox import Sandboxes


class TestBubblewrapBackend(WorkspaceBackendSuite):
    @pytest.fixture
    def backend(self, sandboxes: Sandboxes) -> WorkspaceBackend:
        return BubblewrapBackend(sandboxes)

    @pytest.fixture
    def fresh_backend(self, sandboxes: Sandboxes) -> Callable[[], WorkspaceBackend]:
        return lambda: BubblewrapBackend(sandboxes)

    @pytest.fixture
    def attach_backend(self, sandboxes: Sandboxes) -> Callable[[WorkspaceRef], WorkspaceBackend]:
        return lambda ref: BubblewrapBackend(sandboxes, ref)

    @pytest.fixture
    def destroy_environment(
        self, sandboxes: Sandboxes
    ) -> Callable[[WorkspaceBackend], Awaitable[None]]:
        async def destroy(backend: WorkspaceBackend) -> None:
            assert backend.ref is not None
            sandbox = sandboxes.find(backend.ref.id)
            assert sandbox is not None
            await sandboxes.close(sandbox)

        return destroy
