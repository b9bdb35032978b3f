"""The public names of the Python SDK; importing them never loads the server.

Each name loads its module when it is first used, so that `import handinger` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module

from handinger._version import __version__

# What type checkers take for true. To import it from `typing` would cost more than all the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from handinger.sdk.client import AsyncHandinger, Handinger
    from handinger.sdk.errors import (
        APIConnectionError,
        APIResponseError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        ConflictError,
        ErrorDetail,
        HandingerError,
        InternalServerError,
        InvalidPathError,
        MissingAPIKeyError,
        NotFoundError,
        PaymentRequiredError,
        PermissionDeniedError,
        RateLimitError,
        UnprocessableEntityError,
    )
    from handinger.sdk.events import Event
    from handinger.sdk.fold import MessageFold
    from handinger.sdk.models import (
        Budget,
        Costs,
        Deletion,
        File,
        FilePart,
        IncompleteDetails,
        Output,
        OutputText,
        Part,
        ReasoningPart,
        Source,
        SourceUrlPart,
        StepStartPart,
        TextPart,
        ToolPart,
        Turn,
        TurnError,
        TurnPage,
        UIMessage,
        Usage,
        Worker,
        WorkerPage,
        WorkerStatus,
    )
    from handinger.sdk.operations import FileContent
    from handinger.sdk.streams import AsyncEventStream, EventStream

__all__ = [
    "APIConnectionError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncEventStream",
    "AsyncHandinger",
    "AuthenticationError",
    "BadRequestError",
    "Budget",
    "ConflictError",
    "Costs",
    "Deletion",
    "ErrorDetail",
    "Event",
    "EventStream",
    "File",
    "FileContent",
    "FilePart",
    "Handinger",
    "HandingerError",
    "IncompleteDetails",
    "InternalServerError",
    "InvalidPathError",
    "MessageFold",
    "MissingAPIKeyError",
    "NotFoundError",
    "Output",
    "OutputText",
    "Part",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "RateLimitError",
    "ReasoningPart",
    "Source",
    "SourceUrlPart",
    "StepStartPart",
    "TextPart",
    "ToolPart",
    "Turn",
    "TurnError",
    "TurnPage",
    "UIMessage",
    "UnprocessableEntityError",
    "Usage",
    "Worker",
    "WorkerPage",
    "WorkerStatus",
    "__version__",
]

_MODULES = {
    "client": ("AsyncHandinger", "Handinger"),
    "errors": (
        "APIConnectionError",
        "APIResponseError",
        "APIStatusError",
        "APITimeoutError",
        "AuthenticationError",
        "BadRequestError",
        "ConflictError",
        "ErrorDetail",
        "HandingerError",
        "InternalServerError",
        "InvalidPathError",
        "MissingAPIKeyError",
        "NotFoundError",
        "PaymentRequiredError",
        "PermissionDeniedError",
        "RateLimitError",
        "UnprocessableEntityError",
    ),
    "events": ("Event",),
    "fold": ("MessageFold",),
    "operations": ("FileContent",),
    "streams": ("AsyncEventStream", "EventStream"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


# Type checkers know the names from above, and shall not take any other for one.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # What is named nowhere above is one of the models, which are the most.
        module = import_module(f"handinger.sdk.{_MODULE_OF.get(name, 'models')}")
        value: object = getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
