from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handinger.agent.demo import when

NOW = datetime(2027, 3, 3, 10, 0, tzinfo=UTC)  # A Wednesday.


def cron(line: str, **more: str) -> dict[str, str | int]:
    return {"type": "cron", "cron": line, **more}


def once(date: str) -> dict[str, str | int]:
    return {"type": "scheduled", "date": date}


@pytest.mark.parametrize(
    ("text", "expected", "rest"),
    [
        ("every Monday at 9 do it", cron("0 9 * * 1"), "do it"),
        ("do it every Monday and Thursday at 8:30 pm", cron("30 20 * * 1,4"), "do it"),
        ("do it every weekday at noon", cron("0 12 * * 1-5"), "do it"),
        ("do it on weekends", cron("0 9 * * 0,6"), "do it"),
        ("every Sunday do it", cron("0 9 * * 0"), "do it"),
        ("daily at 7 do it", cron("0 7 * * *"), "do it"),
        ("every evening do it", cron("0 18 * * *"), "do it"),
        ("every month on the 15th at 6 do it", cron("0 6 15 * *"), "do it"),
        ("weekly do it", cron("0 9 * * 1"), "do it"),
        (
            "every day at 8 Europe/Berlin do it",
            cron("0 8 * * *", timezone="Europe/Berlin"),
            "do it",
        ),
        (
            "every Monday at 9 in Madrid do it",
            cron("0 9 * * 1", timezone="Europe/Madrid"),
            "do it",
        ),
        (
            "at 9:30 in New York every day do it",
            cron("30 9 * * *", timezone="America/New_York"),
            "do it",
        ),
        ("do it daily at 7 am in Tokyo time", cron("0 7 * * *", timezone="Asia/Tokyo"), "do it"),
        # Here the town is what it is about.
        ("every day at 8 list hotels in Rome", cron("0 8 * * *"), "list hotels in Rome"),
        ("every day at 8 in brief do it", cron("0 8 * * *"), "in brief do it"),
        ("tomorrow at 8 in Berlin do it", once("2027-03-04T07:00:00Z"), "do it"),
        ("do it with cron `*/5 * * * mon-fri`", cron("*/5 * * * mon-fri"), "do it"),
        ("every 15 minutes do it", {"type": "interval", "intervalSeconds": 900}, "do it"),
        ("hourly do it", {"type": "interval", "intervalSeconds": 3600}, "do it"),
        ("every other day do it", {"type": "interval", "intervalSeconds": 172_800}, "do it"),
        ("in 10 minutes do it", {"type": "delayed", "delayInSeconds": 600}, "do it"),
        ("do it in an hour", {"type": "delayed", "delayInSeconds": 3600}, "do it"),
        ("do it in half an hour", {"type": "delayed", "delayInSeconds": 1800}, "do it"),
        ("do it two days from now", {"type": "delayed", "delayInSeconds": 172_800}, "do it"),
        ("tomorrow at 8 do it", once("2027-03-04T08:00:00Z"), "do it"),
        ("tomorrow do it", once("2027-03-04T09:00:00Z"), "do it"),
        # A time of today that has passed means tomorrow's.
        ("today at 17:15 do it", once("2027-03-03T17:15:00Z"), "do it"),
        ("today at 9 do it", once("2027-03-04T09:00:00Z"), "do it"),
        ("do it next Friday at 10am", once("2027-03-05T10:00:00Z"), "do it"),
        ("do it on Wednesday at 9", once("2027-03-10T09:00:00Z"), "do it"),
        ("do it on 2027-05-01 at 14:30", once("2027-05-01T14:30:00Z"), "do it"),
        ("do it 2027-05-01T14:30:00+02:00", once("2027-05-01T12:30:00Z"), "do it"),
        ("tomorrow at 8 Europe/Berlin do it", once("2027-03-04T07:00:00Z"), "do it"),
    ],
)
def test_a_time_is_read_and_cut_out(text: str, expected: dict[str, str | int], rest: str):
    timing = when.find(text, NOW)
    assert timing is not None
    assert (timing.when, timing.rest) == (expected, rest)


@pytest.mark.parametrize(
    "text",
    [
        "do it",
        "do it at 9",  # A time of day alone says nothing yet.
        "every 0 minutes do it",
        "in 999999999 weeks do it",
        "on 2027-02-30 do it",
        "run `git log every day`",  # Quoted words are not spoken.
        'say "see you tomorrow at 8"',
        "in 5 minutes of reading",
    ],
)
def test_what_names_no_possible_time_has_none(text: str):
    assert when.find(text, NOW) is None


def test_a_time_of_day_alone_counts_where_one_is_expected():
    timing = when.find("at 9:30 do it", NOW, clock_alone=True)
    assert timing is not None
    assert timing.when == once("2027-03-04T09:30:00Z")


def test_an_unknown_time_zone_stays_in_the_text():
    timing = when.find("every day at 8 check Foo/Bar", NOW)
    assert timing is not None
    assert (timing.when, timing.rest) == (cron("0 8 * * *"), "check Foo/Bar")


WORDS = st.sampled_from(
    [
        *("every", "each", "day", "week", "monday", "at 9", "25:99", "am", "in 10", "999999999"),
        *("minutes", "from now", "tomorrow", "next", "on the 31st", "2027-13-45", "9999-12-31"),
        *("0001-01-01", "noon", "`* * * * *`", "America/", "Europe/Berlin", "hourly"),
    ]
)


@given(st.lists(WORDS, max_size=12).map(" ".join))
def test_any_words_give_a_schedule_within_its_limits_or_none(text: str):
    timing = when.find(text, NOW, clock_alone=True)
    if timing is None:
        return
    assert when.described(timing.when)
    for name in ("intervalSeconds", "delayInSeconds"):
        assert 1 <= int(timing.when.get(name, 1)) <= when.MAX_SECONDS
    if timing.when["type"] == "cron":
        assert len(str(timing.when["cron"]).split()) == 5
