"""Rows that SQLAlchemy wrote to SQLite go to PostgreSQL and back; and rows that it wrote to PostgreSQL arrive in
SQLite as it would have written them there."""

from __future__ import annotations

import enum
import random
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pgferry.convert.back import LexicalForm, default_form, writer
from pgferry.convert.copy_stream import SIGNATURE
from pgferry.convert.fields import decode_field, encode_field
from pgferry.convert.outcome import Rejected
from pgferry.convert.rules import convert
from pgferry.convert.wire import decode_rows
from pgferry.errors import Permanent
from pgferry.model import Affinity, ColumnPair, ColumnRule, PgKind, PgType, TablePair
from pgferry.pairing import pair_tables
from pgferry.postgres.catalog import read_tables
from pgferry.quoting import quote
from pgferry.settings import Rules
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.lexical import learn

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Fields = tuple[bytes | None, ...]

# ---------------------------------------------------------------- the application


class Base(DeclarativeBase):
    pass


class Colour(enum.Enum):
    RED = "red"
    DARK_GREEN = "dark green"


class Everything(Base):
    """A column of every type that SQLAlchemy knows and both databases take."""

    __tablename__ = "everything"

    id: Mapped[int] = mapped_column(primary_key=True)
    small: Mapped[int | None] = mapped_column(sa.SmallInteger)
    big: Mapped[int | None] = mapped_column(sa.BigInteger)
    flag: Mapped[bool | None] = mapped_column(sa.Boolean(create_constraint=True))
    short: Mapped[str | None] = mapped_column(sa.String(30))
    long: Mapped[str | None] = mapped_column(sa.Text)
    fixed: Mapped[str | None] = mapped_column(sa.CHAR(6))
    single: Mapped[float | None] = mapped_column(sa.REAL)
    double: Mapped[float | None] = mapped_column(sa.Double)
    floating: Mapped[float | None] = mapped_column(sa.Float)
    price: Mapped[Decimal | None] = mapped_column(sa.Numeric(12, 2))
    rate: Mapped[Decimal | None] = mapped_column(sa.Numeric(14, 9))
    loose: Mapped[Decimal | None] = mapped_column(sa.Numeric)
    day: Mapped[date | None] = mapped_column(sa.Date)
    clock: Mapped[time | None] = mapped_column(sa.Time)
    at: Mapped[datetime | None] = mapped_column(sa.DateTime)
    instant: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    span: Mapped[timedelta | None] = mapped_column(sa.Interval)
    raw: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    pickled: Mapped[Any] = mapped_column(sa.PickleType, nullable=True)
    guid: Mapped[UUID | None] = mapped_column(sa.Uuid)
    guid_text: Mapped[str | None] = mapped_column(sa.Uuid(as_uuid=False))
    colour: Mapped[Colour | None] = mapped_column(sa.Enum(Colour))
    label: Mapped[str | None] = mapped_column(sa.Enum("a", "b c", name="label"))
    written: Mapped[Any] = mapped_column(sa.JSON, nullable=True)
    tree: Mapped[Any] = mapped_column(sa.JSON().with_variant(JSONB(), "postgresql"), nullable=True)
    numbers: Mapped[Any] = mapped_column(sa.JSON().with_variant(ARRAY(sa.Integer), "postgresql"), nullable=True)
    words: Mapped[Any] = mapped_column(sa.JSON().with_variant(ARRAY(sa.Text), "postgresql"), nullable=True)


def moment(chance: random.Random) -> datetime:
    at = datetime(1980, 1, 1) + timedelta(microseconds=chance.randrange(2 * 10**15))
    return at.replace(microsecond=chance.choice((0, 120_000, at.microsecond)))


def word(chance: random.Random) -> str:
    return chance.choice(("", "007", "1e5", " x ", "Bär", "it's", "\t\n", "null", "😀", "2024-01-01", "5"))


def document(chance: random.Random) -> Any:
    return {"id": chance.randrange(10**9), "name": word(chance), "tags": [None, True, chance.random(), {"x": 0.5}]}


def row(number: int, chance: random.Random) -> dict[str, Any]:
    values: dict[str, Any] = {
        "small": chance.randint(-(2**15), 2**15 - 1),
        "big": chance.choice((-(2**63), 2**63 - 1, chance.randrange(9))),
        "flag": chance.random() < 0.5,
        "short": word(chance),
        "long": word(chance) * chance.randrange(9),
        "fixed": word(chance)[:6].rstrip(),
        "single": chance.choice((0.1, 7.0, chance.randrange(10**6) / 8)),
        "double": chance.choice((chance.random(), 1e300, 7.0, float("inf"))),
        "floating": chance.choice((chance.uniform(-1e9, 1e9), 3.0)),
        "price": Decimal(chance.randrange(-(10**12), 10**12)).scaleb(-2),
        "rate": Decimal(chance.randrange(-(10**13), 10**13)).scaleb(-9),
        "loose": Decimal(chance.randrange(10**7)).scaleb(-chance.randrange(4)),
        "day": moment(chance).date(),
        "clock": moment(chance).time(),
        "at": moment(chance),
        "instant": moment(chance).replace(tzinfo=UTC),
        "span": timedelta(microseconds=chance.randint(-(10**13), 10**13)),
        "raw": chance.randbytes(chance.randrange(9)),
        "pickled": {"a": chance.random()},
        "guid": UUID(bytes=chance.randbytes(16)),
        "guid_text": str(UUID(bytes=chance.randbytes(16))),
        "colour": chance.choice(list(Colour)),
        "label": chance.choice(("a", "b c")),
        "written": document(chance),
        "tree": document(chance),
        "numbers": [chance.randrange(99), None, -1],
        "words": [word(chance), word(chance)],
    }
    kept = {name: value for name, value in values.items() if chance.random() > 0.1}
    return {name: sa.null() for name in values} | kept | {"id": number}


def rows(seed: int, count: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [row(number, chance) for number in range(1, count + 1)]


def written_to_sqlite(path: Path, values: Iterable[dict[str, Any]]) -> Path:
    """Write rows to a new SQLite file through the ORM."""
    engine = sa.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Everything(**value) for value in values)
        session.commit()
    engine.dispose()
    return path


# ---------------------------------------------------------------- there and back


@pytest.fixture
async def target(database_url: URL, connection: Connection) -> AsyncIterator[Any]:
    """An engine whose database has the application's tables."""
    engine = create_async_engine(database_url.set(drivername="postgresql+asyncpg"))
    async with engine.begin() as conn:
        await conn.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def paired(path: Path, connection: Connection) -> TablePair:
    with closing(open_read_only(path)) as file:
        return pair_tables(read_catalog(file), await read_tables(connection), Rules()).pair("everything")


def learnt(path: Path, pair: TablePair) -> list[LexicalForm]:
    with closing(open_read_only(path)) as file:
        return [learn(file, pair.source, column) for column in pair.columns]


def values_of(path: Path, pair: TablePair) -> list[tuple[Any, ...]]:
    names = ", ".join(quote(column.source.name) for column in pair.columns)
    with closing(open_read_only(path)) as file:
        return file.execute(f"SELECT {names} FROM everything ORDER BY id").fetchall()


def field_of(value: Any, column: ColumnPair) -> bytes | None:
    answer = convert(value, column.target.type, column.rule)
    assert not isinstance(answer, Rejected), (column.source.name, value, answer)
    return None if answer is None else encode_field(answer, column.target.type)


async def copy_in(connection: Connection, pair: TablePair, fields: Sequence[Fields]) -> None:
    stream = bytearray(SIGNATURE + bytes(8))
    for one in fields:
        stream += len(one).to_bytes(2, "big")
        for field in one:
            stream += b"\xff\xff\xff\xff" if field is None else len(field).to_bytes(4, "big") + field
    stream += b"\xff\xff"

    async def source() -> AsyncIterator[bytes]:
        yield bytes(stream)

    names = [column.target.name for column in pair.columns]
    await connection.copy_to_table("everything", columns=names, source=source(), format="binary")


async def copy_out(connection: Connection, query: str) -> list[Fields]:
    stream = bytearray()

    async def take(data: bytes) -> None:
        stream.extend(data)

    await connection.copy_from_query(query, output=take, format="binary")
    return list(decode_rows([bytes(stream)]))


async def carry_back(connection: Connection, path: Path, pair: TablePair, forms: Sequence[LexicalForm]) -> None:
    """Replace all rows of a SQLite file by those of PostgreSQL."""
    names = [quote(column.target.name) for column in pair.columns]
    found = await copy_out(connection, f"SELECT {', '.join(names)} FROM everything ORDER BY id")
    writers = [writer(column.target.type, form, column.rule) for column, form in zip(pair.columns, forms, strict=True)]
    with closing(sqlite3.connect(path)) as file:
        file.execute("DELETE FROM everything")
        marks = ", ".join("?" * len(names))
        back = [tuple(write(field) for write, field in zip(writers, one, strict=True)) for one in found]
        file.executemany(f"INSERT INTO everything ({', '.join(names)}) VALUES ({marks})", back)
        file.commit()


def cells(path: Path) -> dict[tuple[int, str], str]:
    """Return every cell as SQLite stores it: its class, and its value as a literal."""
    names = [column.key for column in Everything.__table__.columns]
    terms = ", ".join(f"typeof({name}) || ' ' || quote({name}), {name}" for name in map(quote, names))
    with closing(sqlite3.connect(path)) as file:
        found = file.execute(f"SELECT id, {terms} FROM everything").fetchall()
    # quote() writes 15 digits of a float in older versions of SQLite; Python's value has them all.
    return {(one[0], name): f"{one[1 + 2 * n]} {one[2 + 2 * n]!r}" for one in found for n, name in enumerate(names)}


def differing(one: Path, other: Path) -> dict[tuple[int, str], tuple[str | None, str | None]]:
    left, right = cells(one), cells(other)
    return {key: (left.get(key), right.get(key)) for key in left | right if left.get(key) != right.get(key)}


async def test_rows_of_sqlalchemy_come_back_as_it_wrote_them(
    tmp_path: Path, target: Any, connection: Connection
) -> None:
    path = written_to_sqlite(tmp_path / "app.db", rows(1, 400))
    before = written_to_sqlite(tmp_path / "before.db", rows(1, 400))
    pair = await paired(path, connection)
    forms = learnt(path, pair)
    fields = [
        tuple(field_of(value, column) for value, column in zip(one, pair.columns, strict=True))
        for one in values_of(path, pair)
    ]
    await copy_in(connection, pair, fields)
    await carry_back(connection, path, pair, forms)
    assert len(cells(path)) == 400 * len(pair.columns)
    assert differing(path, before) == {}


@pytest.mark.parametrize("known", [200, 0])
async def test_rows_that_sqlalchemy_writes_to_postgresql_arrive_as_it_would_write_them(
    known: int, tmp_path: Path, target: Any, connection: Connection
) -> None:
    path = written_to_sqlite(tmp_path / "app.db", rows(2, known) or [{"id": 1}])
    expected = written_to_sqlite(tmp_path / "expected.db", rows(3, 300))
    async with AsyncSession(target) as session:
        session.add_all(Everything(**value) for value in rows(3, 300))
        await session.commit()
    pair = await paired(path, connection)
    await carry_back(connection, path, pair, learnt(path, pair))
    wrong = differing(path, expected)
    if not known:
        # jsonb has lost the order of keys, and an empty column does not tell it.
        wrong = {key: value for key, value in wrong.items() if key[1] != "tree"}
    assert wrong == {}


# ---------------------------------------------------------------- what SQLite cannot hold

BEYOND = {
    "timestamp 'infinity'": PgType(PgKind.TIMESTAMP),
    "timestamptz '-infinity'": PgType(PgKind.TIMESTAMPTZ),
    "date 'infinity'": PgType(PgKind.DATE),
    "date '0044-03-15 BC'": PgType(PgKind.DATE),
    "timestamp '0044-03-15 12:00 BC'": PgType(PgKind.TIMESTAMP),
    "timestamp '20000-01-01'": PgType(PgKind.TIMESTAMP),
    "time '24:00'": PgType(PgKind.TIME),
    "'NaN'::numeric": PgType(PgKind.NUMERIC),
    "'NaN'::float8": PgType(PgKind.DOUBLE),
    "'NaN'::float4": PgType(PgKind.REAL),
    "'{{1,2},{3,4}}'::int[]": PgType(PgKind.ARRAY, element=PgType(PgKind.INTEGER)),
    "'[0:1]={1,2}'::int[]": PgType(PgKind.ARRAY, element=PgType(PgKind.INTEGER)),
    "array['\\xff'::bytea]": PgType(PgKind.ARRAY, element=PgType(PgKind.BYTEA)),
    "array['infinity'::date]": PgType(PgKind.ARRAY, element=PgType(PgKind.DATE)),
}


@pytest.mark.parametrize("expression", BEYOND)
async def test_what_sqlite_cannot_hold_is_refused(expression: str, connection: Connection) -> None:
    type = BEYOND[expression]
    [(field,)] = await copy_out(connection, f"SELECT {expression}")
    assert field is not None
    for affinity in (Affinity.NUMERIC, Affinity.TEXT, Affinity.BLOB):
        form = default_form(type, affinity=affinity, column="t.c")
        with pytest.raises(Permanent, match=r"The column t\.c holds .* in PostgreSQL"):
            writer(type, form, ColumnRule())(field)


HELD = {
    "timestamp '0001-01-01'": (PgType(PgKind.TIMESTAMP), "0001-01-01 00:00:00.000000"),
    "timestamptz '9999-12-31 23:59:59.999999+00'": (PgType(PgKind.TIMESTAMPTZ), "9999-12-31 23:59:59.999999"),
    "'1e-200'::numeric": (PgType(PgKind.NUMERIC), "0." + "0" * 199 + "1"),
    "'-Infinity'::float8": (PgType(PgKind.DOUBLE), "-inf"),
    "interval '1 year 2 mons -3 days 25:00:00.5'": (PgType(PgKind.INTERVAL), "P1Y2M-3DT25H0.5S"),
    '\'{"b": 1, "a": 1e400}\'::jsonb': (PgType(PgKind.JSONB), '{"a": 1' + "0" * 400 + ', "b": 1}'),
    "'{}'::int[]": (PgType(PgKind.ARRAY, element=PgType(PgKind.INTEGER)), "[]"),
    "array['-Infinity'::float8, 0.1]": (PgType(PgKind.ARRAY, element=PgType(PgKind.DOUBLE)), '["-Infinity", 0.1]'),
}


@pytest.mark.parametrize("expression", HELD)
async def test_what_sqlite_can_hold_arrives(expression: str, connection: Connection) -> None:
    type, written = HELD[expression]
    [(field,)] = await copy_out(connection, f"SELECT {expression}")
    assert field is not None
    value = writer(type, default_form(type, affinity=Affinity.TEXT), ColumnRule())(field)
    assert value == written
    answer = convert(value, type, ColumnRule())
    assert decode_field(encode_field(answer, type), type) == decode_field(field, type)
