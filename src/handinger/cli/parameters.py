"""The parameters that commands share, with their help."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from handinger.cli.options import Options

Given: TypeAlias = Annotated[Options, Parameter(parse=False)]
WorkerId: TypeAlias = Annotated[str, Parameter(help="The worker's id.")]
Input: TypeAlias = Annotated[
    str,
    Parameter(
        help="What to do. @FILE reads a file, - the standard input; \\@ is an @ as such.",
        allow_leading_hyphen=True,
    ),
]
BudgetName: TypeAlias = Literal["low", "standard", "high", "unlimited"]
Budget: TypeAlias = Annotated[BudgetName, Parameter(help="The hard cap of a turn.")]
IdempotencyKey: TypeAlias = Annotated[
    str | None, Parameter(help="The same key within 24 hours joins the first request.")
]
Limit: TypeAlias = Annotated[int | None, Parameter(help="So many at a time, 1 to 100.")]
Cursor: TypeAlias = Annotated[str | None, Parameter(help="Where the page before this one ended.")]
MaxItems: TypeAlias = Annotated[
    int | None, Parameter(help="So many in all, from as many pages as it takes.")
]
