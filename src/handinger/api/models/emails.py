"""Mails, and who may write them."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
)

from handinger import mailbox


class Email(BaseModel):
    """A mail that came in or went out."""

    id: Annotated[str, Field(description="Opaque.")]
    direction: Annotated[Literal["in", "out"], Field(description="Seen from the worker.")]
    status: Annotated[
        Literal[
            "turn", "bounce", "auto_reply", "list", "loop", "too_many",
            "pending", "delivered", "failed",
        ],
        Field(
            description="What became of it. In: `turn` if it started one, else why not. Out: "
            "whether the next host has taken it."
        ),
    ]  # fmt: skip
    sender: Annotated[str, Field(alias="from", description="Its header's address.")]
    to: Annotated[str, Field(description="Its recipient.")]
    subject: Annotated[str, Field(description="Decoded.")]
    messageId: Annotated[str | None, Field(description="With its angle brackets.")]
    turnId: Annotated[str | None, Field(description="That it started, or that sent it.")]
    size: Annotated[int | None, Field(description="Bytes; of what came in.")]
    attempts: Annotated[int | None, Field(description="To deliver it; of what goes out.")]
    error: Annotated[str | None, Field(description="Why the last attempt failed.")]
    verdict: Annotated[
        dict[str, Any] | None, Field(description="What is proven of its sender; of what came in.")
    ]
    createdAt: Annotated[str, Field(description="ISO 8601, UTC.")]
    deliveredAt: Annotated[str | None, Field(description="ISO 8601, UTC; of what went out.")]


class EmailPage(BaseModel):
    """Mails of a worker, newest first."""

    emails: Annotated[list[Email], Field(description="A page of them.")]
    nextCursor: Annotated[str | None, Field(description="Pass it as `cursor`.")]


class EmailSettings(BaseModel):
    """Whose mail the workers of an organization take, and to whom they may write."""

    allow: Annotated[
        list[str],
        Field(description="Addresses, domains, and `*.` before a domain for all below it."),
    ]
    isDefault: Annotated[
        bool, Field(description="Whether it is the server's list, for want of one's own.")
    ]


class EmailSettingsUpdate(BaseModel):
    """A new list."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"allow": ["ada@example.com", "example.org"]}]}
    )

    allow: Annotated[
        list[str] | None,
        Field(
            description="Addresses, domains, and `*.` before a domain for all below it; null "
            "returns to the server's list.",
            max_length=1000,
        ),
    ]

    @field_validator("allow", mode="after")
    @classmethod
    def _canonical(cls, value: list[str] | None) -> list[str] | None:
        return None if value is None else list(mailbox.parse_allow_list(value))


class InboundEmailResult(BaseModel):
    """What became of a mail at one recipient."""

    recipient: Annotated[str, Field(description="As it was given.")]
    status: Annotated[
        Literal["stored", "refused"], Field(description="Refused: do not send it again.")
    ]
    reason: Annotated[str | None, Field(description="Why it was refused, as SMTP says it.")]


class InboundEmail(BaseModel):
    """What became of a mail."""

    results: Annotated[list[InboundEmailResult], Field(description="One per recipient.")]
