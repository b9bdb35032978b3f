"""What every tool gets of its turn."""

from dataclasses import dataclass, field

from handinger import files

# Marks a tool that may run again when it is not known whether it finished.
IDEMPOTENT = {"idempotent": True}


@dataclass(slots=True)
class ToolContext:
    """What a tool may use of its turn."""

    workspace: files.Workspace
    # What a call changes in the workspace; stored together with its result.
    changes: dict[str, files.Change] = field(default_factory=dict[str, files.Change])
