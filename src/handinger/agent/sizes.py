"""Bounds of the tokens of what is sent to a model, by the bytes of its texts.

They hold because every token of a text stands for at least one of its bytes.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from pydantic_ai.messages import (
    BinaryContent,
    FilePart,
    ImageUrl,
    ModelMessage,
    RetryFeedbackPart,
    SpeechPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.tools import ToolDefinition

from handinger.agent import pictures

# What providers add around a text or a call, and around all of them (such as the instructions that
# some of them send along with tools); in tokens.
FRAME = 32
FRAME_OF_REQUEST = 1024
_FRAME_OF_TOOL = 64

# Beside a text that looks as if it were the application's, pydantic-ai says whose it is, and once
# what it means to say so. Such a text opens a tag; it cannot without one of these characters.
_NOTE = 1600
_TAG_OPENERS = "<&\ufe60\ufe64\uff06\uff1c"

# Pictures cost by their size in pixels, at most about this many tokens with any provider; what a
# document or a sound holds cannot be told from its bytes.
_IMAGE_TOKENS = 50_000
_MEDIA_TOKENS = 1_000_000

# What stands at the end of a result that is sent in part.
CUT = "\n[cut off here: the money of this turn does not cover more]"


def definition_bytes(tools: Iterable[ToolDefinition]) -> int:
    """Of what the model is told of its tools."""
    return sum(_FRAME_OF_TOOL + len(definition(tool)) for tool in tools)


def definition(tool: ToolDefinition) -> bytes:
    told = [tool.name, tool.description, tool.parameters_json_schema]
    return json.dumps(told, ensure_ascii=False).encode()


def content_bytes(message: ModelMessage) -> int:
    """A bound of the tokens that one message adds to a request."""
    return sum(FRAME + _part_bytes(part) for part in message.parts)


def _part_bytes(part: object) -> int:
    match part:
        case TextPart():
            return text_bytes(part.content)
        case ThinkingPart():
            return (
                _noted_bytes(part.content)
                + text_bytes(part.signature or "")
                + text_bytes(part.id or "")
            )
        case ToolCallPart():
            return text_bytes(part.args_as_json_str()) + text_bytes(
                part.tool_name + part.tool_call_id
            )
        case ToolReturnPart():
            result = cast(ToolReturnPart, part)
            text = result.model_response_str(wrap_if_error=False)
            named = result.tool_name + result.tool_call_id
            said = text_bytes(text) + text_bytes(named) + _note_bytes(text, about=named)
            return said + _picture_bytes(result)
        case RetryFeedbackPart():
            return _noted_bytes(part.model_response())
        case SystemPromptPart():
            return text_bytes(part.content)
        case UserPromptPart():
            if isinstance(part.content, str):
                return _noted_bytes(part.content)
            return sum(_item_bytes(item) for item in part.content)
        case FilePart() | SpeechPart():
            return _MEDIA_TOKENS
        case _:
            return text_bytes(repr(part))  # It says all that is in it.


def result_bytes(part: ToolReturnPart) -> int:
    """Of what a tool answered, with the picture that may be shown with it."""
    return text_bytes(part.model_response_str(wrap_if_error=False)) + _picture_bytes(part)


def _picture_bytes(part: ToolReturnPart) -> int:
    return _IMAGE_TOKENS if pictures.shows(part) else 0


def _item_bytes(item: object) -> int:
    if isinstance(item, str):
        return _noted_bytes(item)
    if isinstance(item, ImageUrl) or (isinstance(item, BinaryContent) and item.is_image):
        return _IMAGE_TOKENS
    return _MEDIA_TOKENS


def _noted_bytes(text: str) -> int:
    return text_bytes(text) + _note_bytes(text)


def _note_bytes(text: str, *, about: str = "") -> int:
    """Of what may be said beside a text; `about` is what that names."""
    opens_a_tag = any(character in text for character in _TAG_OPENERS)
    return _NOTE + text_bytes(about) if opens_a_tag else 0


def text_bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def shortened(messages: Sequence[ModelMessage], results_bytes: int) -> list[ModelMessage]:
    """The same messages, with the last results cut to so many bytes, shared fairly.

    Their pictures are left out.
    """
    *earlier, last = messages
    parts = list(last.parts)
    results = [part for part in parts if isinstance(part, ToolReturnPart)]
    rest = results_bytes
    cut: dict[int, ToolReturnPart] = {}
    by_size = sorted(results, key=lambda part: len(part.model_response_str(wrap_if_error=False)))
    for number, part in enumerate(by_size):
        content = part.model_response_str(wrap_if_error=False).encode(errors="replace")
        share = rest // (len(results) - number)
        if len(content) > share or pictures.shows(part):
            text = content[:share].decode(errors="ignore") + CUT
            cut[id(part)] = replace(part, content=text, metadata=None)
        rest -= min(len(content), share)
    return [*earlier, replace(last, parts=[cut.get(id(part), part) for part in parts])]
