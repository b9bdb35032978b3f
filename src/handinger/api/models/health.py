"""How the server is."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field


class Health(BaseModel):
    """Whether the server can do its work."""

    status: Annotated[Literal["ok", "unavailable"], Field(description="The verdict.")]
    problems: Annotated[dict[str, str], Field(description="What does not answer, and why.")]
