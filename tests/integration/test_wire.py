"""What is sent is, byte for byte, what the server sends back; and the values read from it are those that went in."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

import asyncpg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pgferry.convert.arrow import from_values
from pgferry.convert.durations import Duration
from pgferry.convert.rules import Rejected, convert
from pgferry.convert.wire import decode_field, decode_rows, encode, equal_field
from pgferry.model import ColumnRule, PgKind, PgType
from pgferry.quoting import quote

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
RULE = ColumnRule()
INTEGER = PgType(PgKind.INTEGER)
SMALL = PgType(PgKind.NUMERIC, precision=10, scale=2)
LABELS = ("red", "dark green", "ärger", "x" * 63)

# ---------------------------------------------------------------- values of every type

_TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)
_MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999))


def numerics(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    """Values of numeric(precision, scale), many of them short or near the limits."""
    limit = 10**precision - 1
    near = st.sampled_from([0, 1, -1, limit, -limit, *(10**power for power in range(precision))])
    return (near | st.integers(-limit, limit)).map(lambda unscaled: Decimal(f"{unscaled}E-{scale}"))


def _unconstrained() -> st.SearchStrategy[str]:
    digits = st.text("0123456789", min_size=1, max_size=45)
    exact = st.builds(lambda sign, whole, part: f"{sign}{whole}.{part}", st.sampled_from(["", "-"]), digits, digits)
    zeros = st.builds(lambda a, b: "1" + "0" * a + "." + "0" * b + "1", st.integers(0, 60), st.integers(0, 60))
    return exact | zeros | st.sampled_from(["0", "0.000", "-0.0", "10000", "9999", "0.0001", "1e30", "1.50e1", "1E-20"])


def _documents() -> st.SearchStrategy[str]:
    numbers = st.sampled_from(["0", "-0", "-0.0", "1.50", "1e2", "1E-5", "-12.340e+3", "1e100", "0.00001", "0e5"])
    leaves = numbers | st.integers().map(str) | st.sampled_from(["null", "true", "false"]) | _TEXT.map(_quoted)

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        lists = st.lists(inner, max_size=5).map(lambda items: "[" + " , ".join(items) + "]")
        keys = st.sampled_from(["a", "b", "aa", "B", "é", "", "zz", "\U0001f600", 'q"\\\n']) | _TEXT
        pairs = st.lists(st.tuples(keys, inner), max_size=5)
        return lists | pairs.map(lambda items: "{" + ",".join(f"{_quoted(k)}:{v}" for k, v in items) + " }")

    return st.recursive(leaves, grow, max_leaves=12)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=len(text) % 2 == 0)


_LIMIT = 2**31 - 1
_INTERVALS = st.builds(
    lambda months, days, microseconds: str(Duration(months, days, microseconds)),
    st.integers(-_LIMIT, _LIMIT),
    st.integers(-_LIMIT, _LIMIT),
    st.integers(-(2**63) + 1, 2**63 - 1),
)
_UUIDS = st.uuids().map(str)


def array_of(*items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON arrays of JSON texts, with nulls."""
    inner = st.lists(st.one_of(st.just("null"), *items), max_size=6)
    return inner.map(lambda texts: "[" + ", ".join(texts) + "]")


Case = tuple[str, PgType, st.SearchStrategy[Any]]

CASES: dict[str, Case] = {
    "smallint": ("smallint", PgType(PgKind.SMALLINT), st.integers(-(2**15), 2**15 - 1)),
    "integer": ("integer", INTEGER, st.integers(-(2**31), 2**31 - 1)),
    "bigint": ("bigint", PgType(PgKind.BIGINT), st.integers(-(2**63), 2**63 - 1)),
    "real": ("real", PgType(PgKind.REAL), st.floats(width=32, allow_nan=False)),
    "double": ("double precision", PgType(PgKind.DOUBLE), st.floats(allow_nan=False)),
    "numeric(10,2)": ("numeric(10,2)", SMALL, numerics(10, 2)),
    "numeric(5)": ("numeric(5)", PgType(PgKind.NUMERIC, precision=5, scale=0), numerics(5, 0)),
    "numeric(18,18)": ("numeric(18,18)", PgType(PgKind.NUMERIC, precision=18, scale=18), numerics(18, 18)),
    "numeric(38,7)": ("numeric(38,7)", PgType(PgKind.NUMERIC, precision=38, scale=7), numerics(38, 7)),
    "numeric(60,20)": ("numeric(60,20)", PgType(PgKind.NUMERIC, precision=60, scale=20), numerics(60, 20)),
    "numeric": ("numeric", PgType(PgKind.NUMERIC), _unconstrained()),
    "boolean": ("boolean", PgType(PgKind.BOOLEAN), st.booleans()),
    "text": ("text", PgType(PgKind.TEXT), _TEXT),
    "varchar": ("varchar(40)", PgType(PgKind.VARCHAR, length=40), _TEXT),
    "char": ("char(40)", PgType(PgKind.CHAR, length=40), _TEXT),
    "bytea": ("bytea", PgType(PgKind.BYTEA), st.binary(max_size=60)),
    "date": ("date", PgType(PgKind.DATE), st.dates().map(date.isoformat)),
    "time": ("time", PgType(PgKind.TIME), st.times().map(time.isoformat)),
    "time(3)": ("time(3)", PgType(PgKind.TIME, precision=3), st.just("23:59:59.999")),
    "timestamp": ("timestamp", PgType(PgKind.TIMESTAMP), _MOMENTS.map(datetime.isoformat)),
    "timestamp(0)": ("timestamp(0)", PgType(PgKind.TIMESTAMP, precision=0), st.just("9999-12-31 23:59:59")),
    "timestamptz": ("timestamptz", PgType(PgKind.TIMESTAMPTZ), _MOMENTS.map(lambda m: m.isoformat() + "Z")),
    "interval": ("interval", PgType(PgKind.INTERVAL), _INTERVALS),
    "uuid": ("uuid", PgType(PgKind.UUID), _UUIDS),
    "json": ("json", PgType(PgKind.JSON), _documents()),
    "jsonb": ("jsonb", PgType(PgKind.JSONB), _documents()),
    "enum": ("colour", PgType(PgKind.ENUM, labels=LABELS), st.sampled_from(LABELS)),
    "integer[]": (
        "integer[]",
        PgType(PgKind.ARRAY, element=INTEGER),
        array_of(st.integers(-_LIMIT, _LIMIT).map(str)),
    ),
    "text[]": ("text[]", PgType(PgKind.ARRAY, element=PgType(PgKind.TEXT)), array_of(_TEXT.map(_quoted))),
    "double[]": (
        "double precision[]",
        PgType(PgKind.ARRAY, element=PgType(PgKind.DOUBLE)),
        array_of(st.floats(allow_nan=False, allow_infinity=False).map(repr)),
    ),
    "numeric[]": (
        "numeric(10,2)[]",
        PgType(PgKind.ARRAY, element=SMALL),
        array_of(numerics(10, 2).map(lambda value: format(value, "f"))),
    ),
    "boolean[]": (
        "boolean[]",
        PgType(PgKind.ARRAY, element=PgType(PgKind.BOOLEAN)),
        array_of(st.sampled_from(["true", "false", "1", '"no"'])),
    ),
    "timestamptz[]": (
        "timestamptz[]",
        PgType(PgKind.ARRAY, element=PgType(PgKind.TIMESTAMPTZ)),
        array_of(_MOMENTS.map(lambda moment: f'"{moment.isoformat()}"')),
    ),
    "date[]": (
        "date[]",
        PgType(PgKind.ARRAY, element=PgType(PgKind.DATE)),
        array_of(st.dates().map(lambda day: f'"{day}"')),
    ),
    "time[]": (
        "time[]",
        PgType(PgKind.ARRAY, element=PgType(PgKind.TIME)),
        array_of(st.times().map(lambda moment: f'"{moment.isoformat()}"')),
    ),
    "uuid[]": ("uuid[]", PgType(PgKind.ARRAY, element=PgType(PgKind.UUID)), array_of(_UUIDS.map(_quoted))),
    "bytea[]": ("bytea[]", PgType(PgKind.ARRAY, element=PgType(PgKind.BYTEA)), array_of(_TEXT.map(_quoted))),
    "jsonb[]": ("jsonb[]", PgType(PgKind.ARRAY, element=PgType(PgKind.JSONB)), array_of(_documents())),
    "char(3)[]": (
        "char(3)[]",
        PgType(PgKind.ARRAY, element=PgType(PgKind.CHAR, length=3)),
        array_of(st.sampled_from(['""', '"a"', '"abc"'])),
    ),
}

# ---------------------------------------------------------------- the round trip


def sample(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Return values that Hypothesis makes, the same in each run."""
    values: list[Any] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Any) -> None:
        values.append(value)

    collect()
    return values


async def round_trip(connection: Connection, sql_type: str, type: PgType, array: pa.Array) -> tuple[bytes, bytes]:
    """COPY the array into a table and out again; return both streams."""
    numbers = pa.array(range(len(array)), pa.int32())
    batch = pa.record_batch([numbers, array], ["n", "v"])
    sent = list(encode([batch], [INTEGER, type]))
    await connection.execute(f"DROP TABLE IF EXISTS w; CREATE TABLE w (n integer, v {sql_type})")
    await connection.copy_to_table("w", source=_async(sent), format="binary")
    back = bytearray()

    async def receive(data: bytes) -> None:
        back.extend(data)

    await connection.copy_from_query("SELECT n, v FROM w ORDER BY n", output=receive, format="binary")
    return b"".join(sent), bytes(back)


async def _async(pieces: Sequence[bytes]) -> Any:
    for piece in pieces:
        yield piece


def semantic(value: Any, type: PgType) -> object:
    """Return a value that the rules accept; decimals and canonical intervals stand for themselves."""
    if isinstance(value, Decimal | None) or type.kind is PgKind.INTERVAL:
        return value
    answer = convert(value, type, RULE)
    assert not isinstance(answer, Rejected), f"{value!r}: {answer}"
    return answer


@pytest.mark.parametrize("name", CASES)
async def test_the_server_sends_back_the_bytes_that_were_sent(connection: Connection, name: str) -> None:
    sql_type, type, strategy = CASES[name]
    if type.kind is PgKind.ENUM:
        labels = ", ".join("'" + label + "'" for label in LABELS)
        await connection.execute(f"CREATE TYPE {quote('colour')} AS ENUM ({labels})")
    values = [semantic(value, type) for value in [*sample(strategy, 300), None]]
    random.Random(1).shuffle(values)

    sent, back = await round_trip(connection, sql_type, type, from_values(values, type))

    rows = list(decode_rows([back]))
    for value, ours, (_, theirs) in zip(values, decode_rows([sent]), rows, strict=True):
        assert ours[1] == theirs, f"{value!r}: we send {ours[1]!r}, the server {theirs!r}"
        assert equal_field(ours[1], theirs, type)
        if theirs is None:
            assert value is None
        elif type.kind is PgKind.JSONB:
            assert convert(str(decode_field(theirs, type)), type, RULE) == decode_field(theirs, type)
        else:
            assert decode_field(theirs, type) == value
            assert repr(decode_field(theirs, type)) == repr(value)
    assert sent == back


async def test_an_array_of_enums_names_the_enum_by_its_oid(connection: Connection) -> None:
    await connection.execute("CREATE TYPE colour AS ENUM ('red', 'blue')")
    oid = await connection.fetchval("SELECT 'colour'::regtype::oid::int8")
    type = PgType(PgKind.ARRAY, element=PgType(PgKind.ENUM, labels=("red", "blue"), oid=oid))
    values = [convert(text, type, RULE) for text in ('["red", null, "blue"]', "[]")]
    sent, back = await round_trip(connection, "colour[]", type, from_values(values, type))
    assert sent == back
    assert await connection.fetchval("SELECT v::text FROM w WHERE n = 0") == "{red,NULL,blue}"


async def test_a_numeric_of_negative_scale_or_wider_than_its_precision(connection: Connection) -> None:
    if connection.get_server_version().major < 15:
        pytest.skip("numeric scales outside 0 to the precision came with PostgreSQL 15")
    for precision, scale, texts in ((3, -2, ["12300", "-100", "0", "99900"]), (2, 4, ["0.0099", "0.0001", "-0.0050"])):
        type = PgType(PgKind.NUMERIC, precision=precision, scale=scale)
        values = [semantic(text, type) for text in texts]
        sent, back = await round_trip(connection, f"numeric({precision},{scale})", type, from_values(values, type))
        assert sent == back
        assert [decode_field(row[1] or b"", type) for row in decode_rows([back])] == values


async def test_jsonb_of_the_greatest_numbers_and_depth(connection: Connection) -> None:
    type = PgType(PgKind.JSONB)
    texts = ["1e131071", "-1.5e-16000", "[" * 300 + "]" * 300, '{"a":' * 299 + "{}" + "}" * 299, "1e-16383", "0e131071"]
    values = [semantic(text, type) for text in texts]
    sent, back = await round_trip(connection, "jsonb", type, from_values(values, type))
    assert sent == back


async def test_what_the_rules_reject_for_jsonb_the_server_rejects_too(connection: Connection) -> None:
    type = PgType(PgKind.JSONB)
    for text in (
        "[NaN]",
        r'"\u0000"',
        r'"\ud800"',
        r'"\udc00\ud800"',
        "1e131073",
        "01",
        "'a'",
        "[1,]",
        '{"a"}',
        "\ufeff1",
        '"\t"',
    ):
        assert isinstance(convert(text, type, RULE), Rejected), text
        with pytest.raises(asyncpg.PostgresError):
            await connection.fetchval("SELECT $1::text::jsonb", text)


async def test_a_stream_of_all_types_at_once_is_cut_anywhere(connection: Connection) -> None:
    names = [name for name in CASES if name != "enum"]
    types = [CASES[name][1] for name in names]
    columns = [
        from_values([semantic(value, type) for value in sample(CASES[name][2], 20)[:7]] + [None], type)
        for name, type in zip(names, types, strict=True)
    ]
    length = min(map(len, columns))
    batch = pa.record_batch([column.slice(0, length) for column in columns], [str(n) for n in range(len(columns))])
    sent = list(encode([batch.slice(0, 3), batch.slice(3)], types))
    definition = ", ".join(f"c{number} {CASES[name][0]}" for number, name in enumerate(names))
    await connection.execute(f"CREATE TABLE w ({definition})")
    await connection.copy_to_table("w", source=_async(sent), format="binary")
    back = bytearray()

    async def receive(data: bytes) -> None:
        back.extend(data)

    await connection.copy_from_query("SELECT * FROM w", output=receive, format="binary")
    assert b"".join(sent) == bytes(back)
    cuts = [bytes(back[at : at + 7]) for at in range(0, len(back), 7)]
    assert list(decode_rows(cuts)) == list(decode_rows(sent))


# ---------------------------------------------------------------- what the server holds beyond pgferry's own values


async def server_bytes(connection: Connection, expression: str) -> bytes:
    back = bytearray()

    async def receive(data: bytes) -> None:
        back.extend(data)

    await connection.copy_from_query(f"SELECT {expression}", output=receive, format="binary")
    ((field,),) = decode_rows([bytes(back)])
    assert field is not None
    return field


async def test_values_that_python_has_no_moment_for_are_told_in_words(connection: Connection) -> None:
    told = {
        "'infinity'::timestamp": "infinity",
        "'-infinity'::timestamptz": "-infinity",
        "'infinity'::date": "infinity",
        "'24:00'::time": "24:00:00",
    }
    for expression, words in told.items():
        type = PgType(PgKind(expression.split("::")[1] if "date" in expression else _long(expression)))
        assert decode_field(await server_bytes(connection, expression), type) == words
    assert "days" in str(decode_field(await server_bytes(connection, "'4713-01-01 BC'::date"), PgType(PgKind.DATE)))


def _long(expression: str) -> str:
    name = expression.split("::")[1]
    return {"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone"}.get(
        name, "time without time zone"
    )


async def test_fields_are_equal_by_value_where_bytes_differ(connection: Connection) -> None:
    jsonb, numeric, char = PgType(PgKind.JSONB), PgType(PgKind.NUMERIC), PgType(PgKind.CHAR, length=5)
    equal = [
        ("'1.0'::numeric", "'1.000'::numeric", numeric, True),
        ("'1.0'::numeric", "'1.001'::numeric", numeric, False),
        ("'NaN'::numeric", "'0'::numeric", numeric, False),
        ("""'{"a": 1.0}'::jsonb""", """'{"a": 1.00}'::jsonb""", jsonb, True),
        ("""'{"a": 1}'::jsonb""", """'{"a": true}'::jsonb""", jsonb, False),
        ("""'{"a":1}'::json""", """'{ "a" : 1 }'::json""", PgType(PgKind.JSON), True),
        ("'ab'::char(5)", "'ab'::char(9)", char, True),
        ("'ab'::text", "'ab '::text", PgType(PgKind.TEXT), False),
        ("'{1.0,null}'::numeric[]", "'{1.00,null}'::numeric[]", PgType(PgKind.ARRAY, element=numeric), True),
        ("'{1.0}'::numeric[]", "'{1.00,null}'::numeric[]", PgType(PgKind.ARRAY, element=numeric), False),
        ("'0'::float8", "'-0'::float8", PgType(PgKind.DOUBLE), False),
        ("'30 days'::interval", "'1 month'::interval", PgType(PgKind.INTERVAL), False),
    ]
    for one, other, type, expected in equal:
        left, right = await server_bytes(connection, one), await server_bytes(connection, other)
        assert equal_field(left, right, type) is expected, (one, other)
    assert equal_field(None, None, numeric)
    assert not equal_field(None, b"", PgType(PgKind.TEXT))


async def test_the_interval_text_means_what_the_server_means(connection: Connection) -> None:
    texts = [
        "01:02:03.5",
        "-01:02:03",
        "1 day, 0:00:05",
        "-1 day, 23:59:59.500000",
        "P1Y2M3DT4H5M6.7S",
        "P2W",
        "PT-4.5S",
        "P-1DT-2H",
        "1 year 2 mons -3 days +04:05:06.7",
        "3 days",
        "100:00:00",
    ]
    for text in texts:
        ours = convert(text, PgType(PgKind.INTERVAL), RULE)
        theirs = decode_field(
            await server_bytes(connection, f"'{text.replace(',', '')}'::interval"), PgType(PgKind.INTERVAL)
        )
        assert ours == theirs, text
    delta = timedelta(days=-3, seconds=5, microseconds=7)
    sent = await connection.fetchval("SELECT $1::interval", delta)
    assert sent == delta
    ours = convert(str(delta), PgType(PgKind.INTERVAL), RULE)
    assert ours == str(Duration(0, delta.days, delta.seconds * 1_000_000 + delta.microseconds))


# ---------------------------------------------------------------- memory and bad streams


def test_a_long_table_is_encoded_in_pieces() -> None:
    batch = pa.record_batch([pa.array(["x" * 1000] * 40_000)], ["v"])
    pieces = list(encode([batch], [PgType(PgKind.TEXT)]))
    assert max(map(len, pieces)) < 6_000_000
    assert sum(1 for _ in decode_rows(pieces)) == 40_000


def test_no_rows_make_a_stream_of_header_and_trailer() -> None:
    assert b"".join(encode([], [INTEGER])) == b"PGCOPY\n\xff\r\n\x00" + bytes(8) + struct.pack("!h", -1)
    assert list(decode_rows(encode([], [INTEGER]))) == []


def test_a_stream_that_is_no_copy_or_is_cut_short_is_refused() -> None:
    whole = b"".join(encode([pa.record_batch([pa.array([1], pa.int32())], ["v"])], [INTEGER]))
    with pytest.raises(ValueError, match="no stream of COPY"):
        list(decode_rows([b"x" * 40]))
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="ends in the middle"):
            list(decode_rows([whole[:length]]))


def test_aware_moments_decode_in_utc() -> None:
    type = PgType(PgKind.TIMESTAMPTZ)
    values = [datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)]
    ((raw,),) = decode_rows(encode([pa.record_batch([from_values(values, type)], ["v"])], [type]))
    assert raw is not None
    assert decode_field(raw, type) == values[0]
