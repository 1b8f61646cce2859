"""The sample is the same for the same seed, and is stored as the application would have stored it."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgferry.errors import UsageError
from pgferry.sample.generate import generate
from pgferry.sample.models import Base, Item, ItemCategory, Trade, TradeKind, WatchlistEntry

TRADES = 3_000
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "osrs.db"
    generate(path, TRADES, items=300)
    return path


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def test_same_seed_gives_the_same_bytes_and_another_seed_other_rows(sample: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again.db", TRADES, items=300)
    generate(tmp_path / "other.db", TRADES, items=300, seed=8)
    assert (tmp_path / "again.db").read_bytes() == sample.read_bytes()
    query = "SELECT * FROM trades ORDER BY id"
    assert rows(tmp_path / "other.db", query) != rows(sample, query)


def test_it_has_as_many_rows_as_asked_and_is_sound(sample: Path) -> None:
    assert rows(sample, "SELECT count(*), min(id), max(id) FROM trades") == [(TRADES, 1, TRADES)]
    assert rows(sample, "SELECT count(*) FROM items") == [(300,)]
    assert rows(sample, "SELECT count(*) > 100 FROM watchlist") == [(1,)]
    assert rows(sample, "PRAGMA integrity_check") == [("ok",)]
    assert rows(sample, "PRAGMA foreign_key_check") == []


def test_without_trades_there_are_still_items(tmp_path: Path) -> None:
    generate(tmp_path / "small.db", 0)
    assert rows(tmp_path / "small.db", "SELECT (SELECT count(*) FROM trades), (SELECT count(*) FROM items)") == [
        (0, 20)
    ]


def test_the_schema_is_the_one_that_the_models_make(sample: Path, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'models.db'}", poolclass=NullPool)
    Base.metadata.create_all(engine)
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
    assert rows(sample, query) == rows(tmp_path / "models.db", query)


@pytest.mark.parametrize(
    ("table", "column", "classes"),
    [
        ("items", "id", "integer"),
        ("items", "limit", "integer,null"),
        ("items", "members", "integer"),
        ("items", "category", "text"),
        ("items", "variant_of", "integer,null"),
        ("items", "attributes", "null,text"),
        ("items", "guide_price", "integer,null,real"),
        ("trades", "timestamp", "text"),
        ("trades", "kind", "text"),
        ("trades", "high_price", "integer,null"),
        ("trades", "turnover", "integer,null"),
        ("trades", "margin", "null,real"),
        ("trades", "is_flip", "integer"),
        ("trades", "note", "null,text"),
        ("watchlist", "target_price", "integer,null,real"),
        ("watchlist", "preferences", "null,text"),
        ("watchlist", "last_alert_at", "null,text"),
    ],
)
def test_storage_classes(sample: Path, table: str, column: str, classes: str) -> None:
    found = rows(sample, f'SELECT DISTINCT typeof("{column}") FROM "{table}" ORDER BY 1')
    assert ",".join(str(row[0]) for row in found) == classes


def test_values_are_written_as_sqlalchemy_writes_them(sample: Path) -> None:
    (stamps,) = zip(*rows(sample, "SELECT timestamp FROM trades"), strict=True)
    assert all(STAMP.fullmatch(str(stamp)) for stamp in stamps)
    assert list(stamps) == sorted(stamps)
    assert {kind for (kind,) in rows(sample, "SELECT DISTINCT kind FROM trades")} == {kind.name for kind in TradeKind}
    assert rows(sample, "SELECT DISTINCT is_flip FROM trades ORDER BY 1") == [(0,), (1,)]
    attributes = [
        json.loads(str(text)) for (text,) in rows(sample, "SELECT attributes FROM items WHERE attributes > ''")
    ]
    assert attributes
    assert all(isinstance(document["tags"], list) for document in attributes)


def test_the_data_hold_what_makes_a_move_hard(sample: Path) -> None:
    notes = [str(note) for (note,) in rows(sample, "SELECT note FROM trades WHERE note IS NOT NULL")]
    for hard in ("'", '"', "\\", "\t", "\n", "é", "日本", "🔥"):
        assert any(hard in note for note in notes), hard
    assert "" in notes
    assert rows(sample, "SELECT max(turnover) > 4294967296 FROM trades") == [(1,)]
    margins = [margin for (margin,) in rows(sample, "SELECT margin FROM trades WHERE margin IS NOT NULL")]
    assert any(float(f"{margin:.16g}") != margin for margin in margins), "needs floats that 16 digits cannot tell"
    assert rows(sample, "SELECT count(*) > 0 FROM items WHERE variant_of < id") == [(1,)]
    assert rows(sample, "SELECT max(n) > 1 FROM (SELECT count(*) n FROM items GROUP BY name)") == [(1,)]


def test_the_data_fit_the_columns_of_the_target(sample: Path) -> None:
    for column in ("high_price", "low_price", "high_volume", "low_volume"):
        assert rows(sample, f"SELECT max({column}) < 2147483648, min({column}) >= 0 FROM trades") == [(1, 1)]
    for table in Base.metadata.sorted_tables:
        for column in table.columns:
            if length := getattr(column.type, "length", None):
                query = f'SELECT max(length("{column.name}")) <= {length} FROM {table.name}'
                assert rows(sample, query) == [(1,)], column
    prices = rows(sample, "SELECT guide_price FROM items UNION ALL SELECT target_price FROM watchlist")
    for (price,) in prices:
        assert price is None or abs(Decimal(str(price))) < 10**10
        assert price is None or Decimal(str(price)).as_tuple().exponent >= -2  # type: ignore[operator]


def test_the_application_reads_it_through_its_models(sample: Path) -> None:
    engine = create_engine(f"sqlite:///{sample}", poolclass=NullPool)
    with Session(engine) as session:
        trade = session.scalars(select(Trade).order_by(Trade.id)).first()
        item = session.scalars(select(Item).where(Item.limit.is_not(None))).first()
        watched = session.scalar(select(func.count()).select_from(WatchlistEntry))
    assert trade is not None
    assert item is not None
    assert isinstance(trade.kind, TradeKind)
    assert isinstance(trade.timestamp, datetime)
    assert isinstance(item.category, ItemCategory)
    assert isinstance(item.members, bool)
    assert isinstance(item.limit, int)
    assert watched


def test_an_existing_file_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"mine\.db exists already"):
        generate(path, 10)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_nothing_is_left_when_it_cannot_be_finished(tmp_path: Path) -> None:
    limited = (
        "import resource, sys; from pgferry.sample.generate import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, "--rows", "50000", str(tmp_path / "half.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "half.db cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("trades", "items"), [(-1, None), (5, 0)])
def test_senseless_numbers_are_refused(tmp_path: Path, trades: int, items: int | None) -> None:
    with pytest.raises(UsageError):
        generate(tmp_path / "none.db", trades, items=items)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pgferry.sample.generate", "--rows", "25", str(tmp_path / "deep" / "cli.db")]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (first.returncode, first.stderr) == (0, "")
    assert rows(tmp_path / "deep" / "cli.db", "SELECT count(*) FROM trades") == [(25,)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "exists already" in second.stderr
    assert "Traceback" not in second.stderr
