"""Every event that a stream may carry, with exactly its fields.

The AI SDK's clients validate strictly: early releases of 5 and 6 throw on any key beyond these.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, TypeAdapter

from tests.contract.wire import Json, check_message, check_worker


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Metadata(_Event):
    workerId: Annotated[str, Field(pattern=r"^wrk_\w+$")]
    turnId: Annotated[str, Field(pattern=r"^trn_\w+$")]


class _Start(_Event):
    type: Literal["start"]
    messageId: Annotated[str, Field(pattern=r"^msg_\w+$")]
    messageMetadata: _Metadata


class _Step(_Event):
    type: Literal["start-step", "finish-step"]


class _TextMark(_Event):
    type: Literal["text-start", "text-end", "reasoning-start", "reasoning-end"]
    id: str


class _TextDelta(_Event):
    type: Literal["text-delta", "reasoning-delta"]
    id: str
    delta: Annotated[str, Field(min_length=1)]


class _ToolInputStart(_Event):
    type: Literal["tool-input-start"]
    toolCallId: str
    toolName: str


class _ToolInputDelta(_Event):
    type: Literal["tool-input-delta"]
    toolCallId: str
    inputTextDelta: Annotated[str, Field(min_length=1)]


class _ToolInputAvailable(_Event):
    type: Literal["tool-input-available"]
    toolCallId: str
    toolName: str
    input: JsonValue


class _ToolOutputAvailable(_Event):
    type: Literal["tool-output-available"]
    toolCallId: str
    output: JsonValue


class _ToolOutputError(_Event):
    type: Literal["tool-output-error"]
    toolCallId: str
    errorText: Annotated[str, Field(min_length=1)]


class _SourceUrl(_Event):
    type: Literal["source-url"]
    sourceId: str
    url: str
    title: str = ""


class _File(_Event):
    type: Literal["file"]
    url: str
    mediaType: str


class _End(_Event):
    type: Literal["finish", "abort"]


class _Error(_Event):
    type: Literal["error"]
    errorText: Annotated[str, Field(min_length=1)]


class _News(_Event):
    type: Literal["data-message", "data-worker"]
    data: dict[str, JsonValue]
    transient: Literal[True]


class _MessageId(_Event):
    messageId: str


class _Retry(_Event):
    type: Literal["data-retry"]
    data: _MessageId
    transient: Literal[True]


_EVENT: TypeAdapter[_Event] = TypeAdapter(
    Annotated[
        _Start
        | _Step
        | _TextMark
        | _TextDelta
        | _ToolInputStart
        | _ToolInputDelta
        | _ToolInputAvailable
        | _ToolOutputAvailable
        | _ToolOutputError
        | _SourceUrl
        | _File
        | _End
        | _Error
        | _News
        | _Retry,
        Discriminator("type"),
    ]
)


def check_event(event: Json) -> None:
    """The event is one of the vocabulary; a worker or message that it brings is checked in full."""
    _EVENT.validate_python(event)
    if event["type"] == "data-worker":
        check_worker(event["data"])
    elif event["type"] == "data-message":
        check_message(event["data"])
