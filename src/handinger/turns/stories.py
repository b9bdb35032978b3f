"""What the row of a turn tells already: the entries that its story begins with, and ends with."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from handinger import story, workers
from handinger.attachments import Attachment
from handinger.ids import TurnId, WorkerId
from handinger.story import Entry, Event, Story
from handinger.turns.endings import Ending


def new_story(
    turn_id: TurnId,
    worker_id: WorkerId,
    *,
    input: str,
    source: str,
    created_at: datetime,
    attached: Sequence[Attachment] = (),
    email: Mapping[str, Any] | None = None,
) -> Story:
    """A story with the two entries that every one begins with; the accepted turn implies them."""
    metadata: dict[str, Any] = workers.message_metadata(
        worker_id, turn_id, source, created_at, email=email
    )
    message = workers.user_message(turn_id, input, metadata, attached)
    start = {
        "messageId": story.message_id(turn_id),
        "messageMetadata": {"workerId": worker_id, "turnId": turn_id},
    }
    entries = [
        Entry(story.Kind.USER, story.BEFORE_ANY_TAKE, data=message),
        Entry(story.Kind.START, story.BEFORE_ANY_TAKE, data=start),
    ]
    return Story(turn_id, story.message_id(turn_id), entries)


def tell_ending(told: Story, ending: Ending) -> None:
    """Add the story's last two entries; they are implied by the ended turn, never stored."""
    told.begin(story.Take(told.take.attempt, told.take.retry + 1))
    told.tell(story.Kind.WORKER)
    told.tell(story.Kind.END, data=_terminal_event(ending))
    told.commit()
    told.ended = True


def _terminal_event(ending: Ending) -> Event:
    if ending.error_code is not None:
        return {"type": "error", "errorText": ending.error_message}
    if ending.incomplete_reason == "cancelled":
        return {"type": "abort"}
    return {"type": "finish"}
