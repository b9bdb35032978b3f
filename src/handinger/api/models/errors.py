"""What every error tells."""

from typing import Annotated

from pydantic import (
    BaseModel,
    Field,
)


class ErrorDetail(BaseModel):
    """One invalid value."""

    path: Annotated[list[str | int], Field(description="Where it stands in the request.")]
    message: Annotated[str, Field(description="What is wrong with it.")]


class Error(BaseModel):
    """Every error's answer."""

    error: Annotated[str, Field(description="One sentence: what was wrong and what to do.")]
    code: Annotated[str, Field(description="For programs.", examples=["not_found"])]
    details: Annotated[list[ErrorDetail] | None, Field(description="For validation errors.")] = None
