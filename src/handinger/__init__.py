"""The public names of the Python SDK; importing them never loads the server.

Each name loads its module when it is first used, so that `import handinger` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module

from handinger._version import __version__

# What type checkers take for true. To import it from `typing` would cost more than all the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from handinger.sdk.answers import FileContent
    from handinger.sdk.caller import APIResponse
    from handinger.sdk.client import AsyncHandinger, Handinger
    from handinger.sdk.downloads import Download
    from handinger.sdk.errors import (
        APIConnectionError,
        APIResponseError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        ConflictError,
        DownloadError,
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
        UploadError,
    )
    from handinger.sdk.events import (
        AbortEvent,
        ErrorEvent,
        Event,
        FileEvent,
        FinishEvent,
        FinishStepEvent,
        MessageEvent,
        ReasoningDeltaEvent,
        ReasoningEndEvent,
        ReasoningStartEvent,
        RetryEvent,
        SourceUrlEvent,
        StartEvent,
        StartStepEvent,
        TextDeltaEvent,
        TextEndEvent,
        TextStartEvent,
        ToolInputAvailableEvent,
        ToolInputDeltaEvent,
        ToolInputStartEvent,
        ToolOutputAvailableEvent,
        ToolOutputErrorEvent,
        WorkerEvent,
    )
    from handinger.sdk.fold import MessageFold
    from handinger.sdk.models import (
        Budget,
        BudgetCaps,
        BudgetList,
        Cancellation,
        Costs,
        CronSchedule,
        DelayedSchedule,
        Deletion,
        File,
        FilePart,
        IncompleteDetails,
        IntervalSchedule,
        Output,
        OutputText,
        Part,
        ReasoningPart,
        Schedule,
        ScheduledSchedule,
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
        WorkerSchedule,
        WorkerSchedules,
        WorkerStatus,
    )
    from handinger.sdk.streams import AsyncEventStream, EventStream, WorkerEvents

__all__ = [
    "APIConnectionError",
    "APIResponse",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AbortEvent",
    "AsyncEventStream",
    "AsyncHandinger",
    "AuthenticationError",
    "BadRequestError",
    "Budget",
    "BudgetCaps",
    "BudgetList",
    "Cancellation",
    "ConflictError",
    "Costs",
    "CronSchedule",
    "DelayedSchedule",
    "Deletion",
    "Download",
    "DownloadError",
    "ErrorDetail",
    "ErrorEvent",
    "Event",
    "EventStream",
    "File",
    "FileContent",
    "FileEvent",
    "FilePart",
    "FinishEvent",
    "FinishStepEvent",
    "Handinger",
    "HandingerError",
    "IncompleteDetails",
    "InternalServerError",
    "IntervalSchedule",
    "InvalidPathError",
    "MessageEvent",
    "MessageFold",
    "MissingAPIKeyError",
    "NotFoundError",
    "Output",
    "OutputText",
    "Part",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "RateLimitError",
    "ReasoningDeltaEvent",
    "ReasoningEndEvent",
    "ReasoningPart",
    "ReasoningStartEvent",
    "RetryEvent",
    "Schedule",
    "ScheduledSchedule",
    "Source",
    "SourceUrlEvent",
    "SourceUrlPart",
    "StartEvent",
    "StartStepEvent",
    "StepStartPart",
    "TextDeltaEvent",
    "TextEndEvent",
    "TextPart",
    "TextStartEvent",
    "ToolInputAvailableEvent",
    "ToolInputDeltaEvent",
    "ToolInputStartEvent",
    "ToolOutputAvailableEvent",
    "ToolOutputErrorEvent",
    "ToolPart",
    "Turn",
    "TurnError",
    "TurnPage",
    "UIMessage",
    "UnprocessableEntityError",
    "UploadError",
    "Usage",
    "Worker",
    "WorkerEvent",
    "WorkerEvents",
    "WorkerPage",
    "WorkerSchedule",
    "WorkerSchedules",
    "WorkerStatus",
    "__version__",
]

_MODULES = {
    "answers": ("FileContent",),
    "caller": ("APIResponse",),
    "client": (
        "AsyncHandinger",
        "Handinger",
    ),
    "downloads": ("Download",),
    "errors": (
        "APIConnectionError",
        "APIResponseError",
        "APIStatusError",
        "APITimeoutError",
        "AuthenticationError",
        "BadRequestError",
        "ConflictError",
        "DownloadError",
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
        "UploadError",
    ),
    "events": (
        "AbortEvent",
        "ErrorEvent",
        "Event",
        "FileEvent",
        "FinishEvent",
        "FinishStepEvent",
        "MessageEvent",
        "ReasoningDeltaEvent",
        "ReasoningEndEvent",
        "ReasoningStartEvent",
        "RetryEvent",
        "SourceUrlEvent",
        "StartEvent",
        "StartStepEvent",
        "TextDeltaEvent",
        "TextEndEvent",
        "TextStartEvent",
        "ToolInputAvailableEvent",
        "ToolInputDeltaEvent",
        "ToolInputStartEvent",
        "ToolOutputAvailableEvent",
        "ToolOutputErrorEvent",
        "WorkerEvent",
    ),
    "fold": ("MessageFold",),
    "streams": (
        "AsyncEventStream",
        "EventStream",
        "WorkerEvents",
    ),
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
