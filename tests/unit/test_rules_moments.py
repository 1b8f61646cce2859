"""Dates, times, timestamps and intervals: exact to the microsecond, zones only when they are named."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgferry.convert.durations import Duration
from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgKind, PgType

RULE = ColumnRule()
BERLIN = ColumnRule(timezone="Europe/Berlin")
DATE, TIME = PgType(PgKind.DATE), PgType(PgKind.TIME)
TIMESTAMP, TIMESTAMPTZ = PgType(PgKind.TIMESTAMP), PgType(PgKind.TIMESTAMPTZ)
INTERVAL = PgType(PgKind.INTERVAL)
MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999))
OFFSETS = st.timedeltas(timedelta(hours=-15, minutes=-59), timedelta(hours=15, minutes=59)).map(
    lambda delta: timezone(timedelta(minutes=delta // timedelta(minutes=1)))
)
EPOCH = datetime(1970, 1, 1)


def reason(value: Any, type: PgType, rule: ColumnRule = RULE) -> str:
    answer = convert(value, type, rule)
    assert isinstance(answer, Rejected), f"{value!r} became {answer!r}"
    return answer.reason


# ---------------------------------------------------------------- ISO text


@given(MOMENTS)
def test_naive_text_is_its_wall_clock(moment: datetime) -> None:
    for text in (moment.isoformat(" "), moment.isoformat("T"), moment.isoformat(timespec="microseconds") + "000"):
        assert convert(text, TIMESTAMP, RULE) == moment
        assert convert(text, TIMESTAMPTZ, RULE) == moment.replace(tzinfo=UTC)
    zero = convert(moment.isoformat(" ") + "+00:00", TIMESTAMP, RULE)
    assert zero == moment
    assert isinstance(zero, datetime)
    assert zero.tzinfo is None


@given(MOMENTS, OFFSETS)
def test_text_with_an_offset_is_its_instant(moment: datetime, offset: timezone) -> None:
    aware = moment.replace(tzinfo=offset)
    answer = convert(aware.isoformat(), TIMESTAMPTZ, RULE)
    try:
        expected = aware.astimezone(UTC)
    except OverflowError:
        assert isinstance(answer, Rejected)
        return
    assert answer == expected
    assert isinstance(answer, datetime)
    assert answer.tzinfo is UTC
    if offset.utcoffset(None):
        assert "name a timezone" in reason(aware.isoformat(), TIMESTAMP)


@given(MOMENTS)
def test_a_named_zone_is_applied_only_where_the_clock_is_unambiguous(moment: datetime) -> None:
    zone = ZoneInfo("Europe/Berlin")
    answer = convert(moment.isoformat(), TIMESTAMPTZ, BERLIN)
    folds = [moment.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1)]
    if isinstance(answer, Rejected):
        assert folds[0] != folds[1] or moment < datetime(1, 1, 2)
    else:
        assert isinstance(answer, datetime)
        assert answer.astimezone(zone).replace(tzinfo=None) == moment


def test_the_hours_in_which_the_clocks_change() -> None:
    assert "clocks change" in reason("2024-03-31 02:30:00", TIMESTAMPTZ, BERLIN)
    assert "clocks change" in reason("2024-10-27 02:30:00", TIMESTAMPTZ, BERLIN)
    assert convert("2024-10-27 02:30:00+01:00", TIMESTAMPTZ, BERLIN) == datetime(2024, 10, 27, 1, 30, tzinfo=UTC)
    assert convert("2024-07-01 12:00:00Z", TIMESTAMP, BERLIN) == datetime(2024, 7, 1, 14)
    assert convert("2024-07-01 12:00:00-05:00", TIMESTAMP, ColumnRule(timezone="UTC")) == datetime(2024, 7, 1, 17)
    assert "clocks change" in reason("2024-10-27 00:30:00Z", TIMESTAMP, BERLIN)
    assert convert("2024-07-01 12:00:00", TIMESTAMP, BERLIN) == datetime(2024, 7, 1, 12)


@given(st.dates(), st.times())
def test_a_date_takes_dates_and_midnights_only(day: date, moment: time) -> None:
    assert convert(day.isoformat(), DATE, RULE) == day
    assert convert(f"{day} 00:00:00.000000", DATE, RULE) == day
    assert convert(day.isoformat(), TIMESTAMP, RULE) == datetime.combine(day, time())
    assert convert(moment.isoformat(), TIME, RULE) == moment
    if moment != time():
        assert "time of day" in reason(f"{day}T{moment.isoformat()}", DATE)


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-30",
        "2023-02-29 00:00:00",
        "2024-13-01",
        "2024-00-10",
        "0000-01-01",
        "2024-01-01 24:00:00",
        "2024-01-01 23:59:60",
        "2024-01-01 12:60",
        "2024-1-1",
        "2024/01/01",
        "01.02.2024",
        "2024-01-01 12",
        "2024-01-01  12:00:00",
        "2024-01-01 12:00:00.",
        "2024-01-01 12:00:00,5",
        "2024-01-01 12:00:00.1234567",
        "2024-01-01 12:00:00.1234567890",
        "2024-01-01 12:00:00+16:00",
        "2024-01-01 12:00:00+1:00",
        "2024-01-01 12:00:00 CET",
        "2024-01-01Z",
        " 2024-01-01",
        "2024-01-01\n",
        "٢٠٢٤-01-01",
        "now",
        "infinity",
        "10000-01-01",
        "-2024-01-01",
    ],
)
def test_what_is_no_moment(text: str) -> None:
    for type in (DATE, TIMESTAMP, TIMESTAMPTZ):
        assert isinstance(convert(text, type, RULE), Rejected)


def test_moment_reasons() -> None:
    assert reason("2024-02-30", DATE) == "'2024-02-30' is no moment of the calendar"
    assert reason("soon", TIMESTAMP) == "'soon' is no timestamp"
    assert reason("2024-01-01 12:00:00.1234567", TIMESTAMP).endswith(
        "is finer than a microsecond, in a timestamp column"
    )
    millisecond = PgType(PgKind.TIMESTAMP, precision=3)
    assert convert("2024-01-01 12:00:00.123000", millisecond, RULE) == datetime(2024, 1, 1, 12, 0, 0, 123000)
    assert "finer than 3 digits" in reason("2024-01-01 12:00:00.1234", millisecond)
    assert convert("2024-01-01 12:00:00.999", PgType(PgKind.DATE), RULE) == Rejected(
        "'2024-01-01 12:00:00.999' has a time of day, which date cannot hold"
    )
    for text in ("24:00:00", "12:60", "1:00", "12", "12:00:60", "12:00:00Z", "2024-01-01 12:00", "12:00:00.1234567"):
        assert isinstance(convert(text, TIME, RULE), Rejected), text
    assert reason(5, TIME) == "5 is no time"
    assert "BLOB" in reason(b"2024-01-01", DATE)


# ---------------------------------------------------------------- numbers


@given(MOMENTS.map(lambda moment: (moment - EPOCH) // timedelta(microseconds=1)), st.sampled_from(["s", "ms", "us"]))
def test_epochs_are_exact(microseconds: int, unit: str) -> None:
    per = {"s": 1_000_000, "ms": 1000, "us": 1}[unit]
    count = microseconds // per
    rule = ColumnRule(epoch=unit)
    expected = EPOCH + timedelta(microseconds=count * per)
    for value in (count, str(count)):
        assert convert(value, TIMESTAMP, rule) == expected
        assert convert(value, TIMESTAMPTZ, rule) == expected.replace(tzinfo=UTC)
        assert "say its unit" in reason(value, TIMESTAMP)


@given(st.integers(0, 4_000_000_000), st.integers(0, 999))
def test_a_real_epoch_is_its_shortest_decimal(seconds: int, milliseconds: int) -> None:
    value = float(f"{seconds}.{milliseconds:03d}")
    expected = EPOCH + timedelta(seconds=seconds, milliseconds=milliseconds)
    assert convert(value, TIMESTAMP, ColumnRule(epoch="s")) == expected


@given(MOMENTS)
def test_a_julian_day_of_sqlite_is_its_millisecond(moment: datetime) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    connection = sqlite3.connect(":memory:")
    (julian,) = connection.execute("SELECT julianday(?)", (moment.isoformat(" ", "milliseconds"),)).fetchone()
    connection.close()
    assert convert(julian, TIMESTAMP, ColumnRule(epoch="julian")) == moment


def test_epoch_forms() -> None:
    seconds, julian = ColumnRule(epoch="s"), ColumnRule(epoch="julian")
    assert convert(2440587.5, TIMESTAMP, julian) == EPOCH
    assert convert(2440588, TIMESTAMP, julian) == EPOCH + timedelta(hours=12)
    assert convert(86400, DATE, seconds) == date(1970, 1, 2)
    assert "time of day" in reason(86401, DATE, seconds)
    assert convert(0, TIMESTAMP, seconds) == EPOCH
    assert convert("1700000000.25", TIMESTAMP, seconds) == datetime(2023, 11, 14, 22, 13, 20, 250000)
    assert convert(1700000000, TIMESTAMPTZ, ColumnRule(epoch="s", timezone="Europe/Berlin")) == datetime(
        2023, 11, 14, 22, 13, 20, tzinfo=UTC
    )
    assert "finer" in reason(1700000000.1234567, TIMESTAMP, seconds)
    assert "years 1 to 9999" in reason(1700000000000, TIMESTAMP, seconds)
    assert "years 1 to 9999" in reason(10**30, TIMESTAMP, seconds)
    assert "years 1 to 9999" in reason("1e999999", TIMESTAMP, seconds)
    assert "years 1 to 9999" in reason(float("inf"), TIMESTAMP, seconds)
    assert reason(1700000000, TIMESTAMPTZ) == (
        '1700000000 is a number, in a timestamptz column; say its unit with epoch = "s", "ms", "us" or "julian"'
    )


def test_zero_dates_are_null_only_by_rule() -> None:
    null = ColumnRule(on_zero_date="null")
    for value in (0, 0.0, "0", "0000-00-00", "0000-00-00 00:00:00", "0000-00-00T00:00:00Z"):
        for type in (DATE, TIMESTAMP, TIMESTAMPTZ):
            assert isinstance(convert(value, type, RULE), Rejected), value
            assert convert(value, type, null) is None
            assert convert(value, type, ColumnRule(on_zero_date="null", epoch="s")) is None
    assert "on_zero_date" in reason("0000-00-00", DATE)
    assert convert("", DATE, ColumnRule(on_empty="null")) is None
    assert isinstance(convert("", DATE, null), Rejected)


# ---------------------------------------------------------------- intervals


@given(st.timedeltas(timedelta(days=-(10**8)), timedelta(days=10**8)))
def test_a_timedelta_in_its_own_words(delta: timedelta) -> None:
    expected = str(Duration(0, delta.days, delta.seconds * 1_000_000 + delta.microseconds))
    assert convert(str(delta), INTERVAL, RULE) == expected
    microseconds = delta // timedelta(microseconds=1)
    if abs(microseconds) < 10**18:
        assert convert(microseconds, INTERVAL, ColumnRule(epoch="us")) == expected
        assert "say its unit" in reason(microseconds, INTERVAL)


@given(st.integers(-(2**31) + 1, 2**31 - 1), st.integers(-(2**31) + 1, 2**31 - 1), st.integers(-(2**63) + 1, 2**63 - 1))
def test_the_canonical_text_keeps_months_days_and_microseconds_apart(months: int, days: int, microseconds: int) -> None:
    duration = Duration(months, days, microseconds)
    assert Duration.parse(str(duration)) == duration


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)))
def test_sqlalchemys_moment_counts_from_1970(moment: datetime) -> None:
    delta = moment - EPOCH
    text = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    assert convert(text, INTERVAL, RULE) == str(Duration(0, delta.days, delta.seconds * 1_000_000 + delta.microseconds))


@pytest.mark.parametrize(
    ("text", "months", "days", "microseconds"),
    [
        ("01:02:03.5", 0, 0, 3_723_500_000),
        ("-01:02:03", 0, 0, -3_723_000_000),
        ("1 day, 0:00:05", 0, 1, 5_000_000),
        ("-1 day, 23:59:59", 0, -1, 86_399_000_000),
        ("5 02:03:04.5", 0, 5, 7_384_500_000),
        ("3 days", 0, 3, 0),
        ("1 year 2 mons", 14, 0, 0),
        ("1 year 2 mons -3 days +04:05:06.7", 14, -3, 14_706_700_000),
        ("1 mon", 1, 0, 0),
        ("P1Y2M3DT4H5M6.7S", 14, 3, 14_706_700_000),
        ("-P1DT2H", 0, -1, -7_200_000_000),
        ("P-1DT-2H", 0, -1, -7_200_000_000),
        ("P2W", 0, 14, 0),
        ("PT-0.5S", 0, 0, -500_000),
        ("PT36H", 0, 0, 129_600_000_000),
    ],
)
def test_interval_forms(text: str, months: int, days: int, microseconds: int) -> None:
    assert convert(text, INTERVAL, RULE) == str(Duration(months, days, microseconds))


@pytest.mark.parametrize(
    "text",
    ["5", "5 ", "1 day ", "1 day,", "P", "PT", "P1DT", "1:60:00", "1:00:60", "P1.5D", "1 week", "a", "1 day 2 days",
     "1day", "01:02", "P999999999Y", "PT0.1234567S", "1 day,, 1:00:00", "--1:00:00", "1 year2 mons"],
)  # fmt: skip
def test_what_is_no_interval(text: str) -> None:
    assert isinstance(convert(text, INTERVAL, RULE), Rejected)


def test_interval_precision_and_units() -> None:
    assert "finer than interval(0)" in reason("00:00:00.5", PgType(PgKind.INTERVAL, precision=0))
    assert convert(1.5, INTERVAL, ColumnRule(epoch="s")) == "P0M0DT1.500000S"
    assert convert(-1, INTERVAL, ColumnRule(epoch="ms")) == "P0M-1DT86399.999000S"
    assert "say its unit" in reason(1, INTERVAL, ColumnRule(epoch="julian"))
    assert "empty" in reason("", INTERVAL)
    with pytest.raises(ValueError, match="canonical"):
        Duration.parse("P1D")
