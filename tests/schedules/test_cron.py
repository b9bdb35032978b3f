"""Cron expressions: what they match, through a year and through changes of the clock."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter

from handinger.schedules import cron

YEAR = datetime(2027, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)

EXPRESSIONS = [
    "0 9 * * *",
    "30 6 * * 1-5",
    "0 9 * * MON",
    "15 14 1 * *",
    "0 22 * * 1-5",
    "5 4 * * SUN",
    "0 0 1,15 * 3",  # a day that fits either
    "0 12 13 * FRI",
    "0 0 */2 * MON",  # both must fit, as one begins with a star
    "0 0 10-20 * */2",
    "0 0 1-7 * *",
    "0 0 31 * *",
    "0 0 30 * *",
    "0 0 29 2,3 *",
    "0 0 1 JAN,JUL *",
    "0 0 1 jan-mar *",
    "0 0 1 */3 *",
    "0 0 * * 7",
    "0 0 * * 0",
    "0 0 * * 5-7",
    "0 0 * * tue,THU",
    "0 8-18/5 * * *",
    "20 8-18/5 * * 1-5",
    "0 */6 * * *",
    "17 */8 1-10 * *",
    "0 0,12 * * *",
    "0,30 9 * * 1-5",
    "10-12 3 1 * *",
    "0-59/20 7 * * 6",
    "5/25 7 * * 6",
    "*/10 8 * * 1",
    "59 23 31 12 *",
    "0 0 1 1 *",
    "*/20 0-2 5 * *",
    "1,2,3 1,2 3 4 *",
    "0 0 */10 * *",
    "0 6 1-31/9 2-12/5 *",
    "0 * 1-7 * *",
    "*/15 * 1 * *",
    "* 9-10 1 * *",
]
# So many times that they are compared without jobs.
DENSE = ["0 * * * *", "*/15 * * * *", "* 9-17 * * 1-5"]


def _times(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """All from the start on and before the end."""
    moment = start - timedelta(seconds=1)
    found: list[datetime] = []
    while (moment := cron.next_time(expression, zone, moment)) < end:
        found.append(moment)
    return found


def by_another_library(expression: str, start: datetime, end: datetime) -> list[datetime]:
    """All from the start on and before the end, in UTC."""
    other = croniter(expression, start - timedelta(seconds=1), implement_cron_bug=True)
    times: list[datetime] = []
    while (moment := other.get_next(datetime)) < end:
        times.append(moment)
    return times


@pytest.mark.parametrize(
    "expression", [*EXPRESSIONS, *(pytest.param(one, marks=pytest.mark.slow) for one in DENSE)]
)
def test_a_year_is_as_an_independent_library_has_it(expression: str):
    assert len(set(EXPRESSIONS)) == 40
    expected = by_another_library(expression, *YEAR)
    assert expected
    assert _times(expression, "UTC", *YEAR) == expected


@pytest.mark.parametrize(
    ("nickname", "same"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@HOURLY", "0 * * * *"),
    ],
)
def test_nicknames_stand_for_expressions(nickname: str, same: str):
    assert cron.check(nickname) == cron.check(same)


# Of each zone: the day of the change, what is skipped or doubled, and what fires then. Times with
# their offset tell the first of two repeated hours from the second.
CHANGES = [
    # Madrid goes from 02:00 to 03:00 and back from 03:00 to 02:00.
    ("Europe/Madrid", "2027-03-28", "30 2 * * *", ["03:00+02:00"]),
    ("Europe/Madrid", "2027-03-28", "0 3 * * *", ["03:00+02:00"]),
    ("Europe/Madrid", "2027-03-28", "30 1-3 * * *", ["01:30+01:00", "03:00+02:00", "03:30+02:00"]),
    ("Europe/Madrid", "2027-03-28", "0 */2 * * *", ["00:00+01:00", "04:00+02:00"]),
    ("Europe/Madrid", "2027-03-28", "*/30 2 * * *", []),
    ("Europe/Madrid", "2027-10-31", "30 2 * * *", ["02:30+02:00"]),
    ("Europe/Madrid", "2027-10-31", "30 */2 * * *", ["00:30+02:00", "02:30+02:00", "02:30+01:00"]),
    (
        "Europe/Madrid",
        "2027-10-31",
        "*/30 2 * * *",
        ["02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00"],
    ),
    # New York from 02:00 to 03:00, and back from 02:00 to 01:00.
    ("America/New_York", "2027-03-14", "0 2 * * *", ["03:00-04:00"]),
    ("America/New_York", "2027-03-14", "15 * * * *", ["00:15-05:00", "01:15-05:00", "03:15-04:00"]),
    ("America/New_York", "2027-11-07", "15 1 * * *", ["01:15-04:00"]),
    (
        "America/New_York",
        "2027-11-07",
        "15 * * * *",
        ["00:15-04:00", "01:15-04:00", "01:15-05:00", "02:15-05:00"],
    ),
    # Lord Howe by half an hour: from 02:00 to 02:30, and back from 02:00 to 01:30.
    ("Australia/Lord_Howe", "2027-10-03", "15 2 * * *", ["02:30+11:00"]),
    ("Australia/Lord_Howe", "2027-10-03", "45 2 * * *", ["02:45+11:00"]),
    ("Australia/Lord_Howe", "2027-10-03", "15 */2 * * *", ["00:15+10:30"]),
    ("Australia/Lord_Howe", "2027-04-04", "45 1 * * *", ["01:45+11:00"]),
    (
        "Australia/Lord_Howe",
        "2027-04-04",
        "45 * * * *",
        ["00:45+11:00", "01:45+11:00", "01:45+10:30"],
    ),
    # Havana skips and repeats midnight: from 00:00 to 01:00, and back from 01:00 to 00:00.
    ("America/Havana", "2027-03-14", "@daily", ["01:00-04:00"]),
    ("America/Havana", "2027-03-14", "0 */3 * * *", ["03:00-04:00"]),
    ("America/Havana", "2027-11-07", "@daily", ["00:00-04:00"]),
    ("America/Havana", "2027-11-07", "30 * * * *", ["00:30-04:00", "00:30-05:00", "01:30-05:00"]),
    # Chatham from 02:45 to 03:45, and back from 03:45 to 02:45.
    ("Pacific/Chatham", "2027-09-26", "0 3 * * *", ["03:45+13:45"]),
    ("Pacific/Chatham", "2027-09-26", "0 * * * *", ["00:00+12:45", "01:00+12:45", "02:00+12:45"]),
    ("Pacific/Chatham", "2027-04-04", "0 3 * * *", ["03:00+13:45"]),
    ("Pacific/Chatham", "2027-04-04", "0 3-4/1 * * *", ["03:00+13:45", "04:00+12:45"]),
    ("Pacific/Chatham", "2027-04-04", "0 */3 * * *", ["00:00+13:45", "03:00+13:45", "03:00+12:45"]),
]


def day_of_change(zone: str, day: str, expected: list[str]) -> tuple[datetime, datetime]:
    """From its beginning as far as anything is expected; what is in between shows as well."""
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    end = datetime.fromisoformat(f"{day}T{(expected or ['06:00+00:00'])[-1]}").astimezone(UTC)
    return start, max(end, start) + timedelta(minutes=1)


def shown(moments: list[datetime], zone: str) -> list[str]:
    """As `CHANGES` has them."""
    local = [moment.astimezone(ZoneInfo(zone)) for moment in moments]
    return [f"{one:%H:%M}{one.isoformat()[-6:]}" for one in local]


@pytest.mark.parametrize(("zone", "day", "expression", "expected"), CHANGES)
def test_changes_of_the_clock(zone: str, day: str, expression: str, expected: list[str]):
    found = _times(expression, zone, *day_of_change(zone, day, expected))
    assert shown(found, zone) == expected


@pytest.mark.parametrize("zone", ["Europe/Madrid", "America/Havana", "Australia/Lord_Howe"])
@pytest.mark.parametrize("expression", ["*/7 * * * *", "30 2 * * *", "0 0 * * *", "*/30 0 * * *"])
def test_the_next_time_does_not_depend_on_where_one_looks_from(zone: str, expression: str):
    for change in (datetime(2027, 3, 14, tzinfo=UTC), datetime(2027, 10, 31, tzinfo=UTC)):
        start = change - timedelta(days=1)
        times = _times(expression, zone, start, change + timedelta(days=2))
        assert times == sorted(set(times))
        for earlier, later in pairwise(times[:400]):
            middle = earlier + (later - earlier) / 2
            assert cron.next_time(expression, zone, middle) == later


def test_a_leap_day_comes_every_four_years_but_not_in_2100():
    times = _times("0 12 29 2 *", "Europe/Madrid", YEAR[0], datetime(2105, 1, 1, tzinfo=UTC))
    years = [moment.year for moment in times]
    assert years == [*range(2028, 2097, 4), 2104]
    assert {(moment.month, moment.day) for moment in times} == {(2, 29)}


def test_an_expression_that_fires_rarely_is_found_fast_in_any_zone():
    after = datetime(2027, 3, 1, tzinfo=UTC)
    found = cron.next_time("* * 29 2 */7", "America/Havana", after)
    assert found.astimezone(ZoneInfo("America/Havana")).isoformat() == "2032-02-29T00:00:00-05:00"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "has 0 fields; five are needed"),
        ("* * * *", "has 4 fields"),
        ("0 0 * * * *", "has 6 fields"),
        ("60 * * * *", "the minute '60' is not valid: it is 0 to 59"),
        ("* 24 * * *", "the hour '24'"),
        ("* * 0 * *", "the day of month '0' is not valid: it is 1 to 31"),
        ("* * * 13 *", "the month '13' is not valid: it is 1 to 12 or JAN to DEC"),
        ("* * * * 8", "the day of week '8' is not valid: it is 0 to 7 or SUN to SAT"),
        ("* * * * MON-FRO", "the day of week 'FRO' in 'MON-FRO'"),
        ("* * * MON *", "the month 'MON'"),
        ("1, * * * *", "the minute ''"),
        ("-5 * * * *", "the minute '' in '-5'"),
        ("5- * * * *", "the minute '' in '5-'"),
        ("50-10 * * * *", "the minute '50-10' is a range that ends before it begins"),
        ("*/0 * * * *", "the minute '*/0' has the step '0'"),
        ("*/x * * * *", "has the step 'x'"),
        ("*/ * * * *", "has the step ''"),
        ("** * * * *", "the minute '**'"),
        ("1.5 * * * *", "the minute '1.5'"),
        ("٣ * * * *", "the minute '٣'"),
        ("0 0 L * *", "the day of month 'L'"),
        ("0 0 ? * *", "the day of month '?'"),
        ("0 0 * * 1#2", "the day of week '1#2'"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("@reboot", "'@reboot' is not known; there are @yearly"),
        ("0 " * 600, "has 1200 characters"),
    ],
)
def test_what_is_wrong_is_said(expression: str, message: str):
    with pytest.raises(ValueError) as raised:
        cron.check(expression)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "name", ["", "Madrid", "europe/madrid/", "../UTC", "localtime", "x" * 300, "\0"]
)
def test_what_is_no_time_zone_is_refused(name: str):
    with pytest.raises(ValueError, match="is no IANA time zone"):
        cron.zone(name)
