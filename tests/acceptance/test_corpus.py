"""Every real file of the corpus moves whole by `migrate --plan`: no crash, no lost row, no changed cell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.plan.model import NotCarried
from tests.acceptance.corpus_compare import compare
from tests.acceptance.library_move import Planned, plan_and_move
from tests.acceptance.moving import environment, migrate
from tests.acceptance.objects import left_behind, source_objects, target_objects, unaccounted

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
FILES = sorted(CORPUS.iterdir()) if CORPUS.is_dir() else []
BY_COMMAND_LINE = ("calibre_metadata.db", "duckdb_mixed_data_numeric.db", "pgloader_bad-utf8.db")
PAGE = "PGFERRY_CORPUS_PAGE"
"""The environment variable that names the page to write: `make corpus` sets it to docs/corpus.md."""

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not FILES, reason="the corpus of real files is not on this machine"),
]


@dataclass(frozen=True)
class Line:
    """What the page says of one file."""

    file: str
    tables: int
    rows: int
    loaded: int
    quarantined: int
    excluded: int
    carried: int
    not_carried: tuple[NotCarried, ...]
    seconds: float


@pytest.fixture(scope="module")
def page() -> Iterator[list[Line]]:
    """The lines of the page, which is written at the end when a name is given and every file was moved."""
    lines: list[Line] = []
    yield lines
    if os.environ.get(PAGE) and len(lines) == len(FILES):
        Path(os.environ[PAGE]).write_text(rendered(lines), "utf-8")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """One home, and so one Prefect server, for the moves by command line; below /tmp for the sake of short paths."""
    folder = Path(tempfile.mkdtemp(prefix="pgferry-corpus-"))
    yield folder
    env = environment(None, folder)
    subprocess.run([sys.executable, "-m", "flows", "down"], env=env, cwd=folder, check=True, capture_output=True)
    shutil.rmtree(folder)


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy: SQLite leaves -wal and -shm files beside a file in WAL mode that is read."""
    copy = Path(shutil.copy(request.param, tmp_path / request.param.name))
    copy.chmod(0o600)
    return copy


@pytest.mark.parametrize("source", FILES, indirect=True, ids=lambda path: path.name)
async def test_every_file_moves_whole(
    source: Path,
    tmp_path: Path,
    database_url: URL,
    connection: asyncpg.Connection[asyncpg.Record],
    page: list[Line],
) -> None:
    moved = await plan_and_move(source, database_url, tmp_path / "home")

    found = await compare(source, database_url)
    assert [text for table in found.values() for text in table.wrong] == []
    assert [table for table in found.values() if not table.closed] == []
    assert moved.report.verified
    told = {table.table: (table.source_rows, table.loaded, table.quarantined) for table in moved.report.tables}
    counted = {table.table: (table.rows, table.loaded, table.quarantined) for table in found.values()}
    assert {name: told[name] for name in counted} == counted

    # Nothing in the corpus needs to be kept aside: a type was found for every column that holds all its values.
    assert [reason for table in found.values() for reason in table.reasons] == []

    there = await target_objects(connection, moved.plan)
    assert unaccounted(source_objects(source, moved.plan), there, left_behind(moved.plan), moved.plan) == []
    page.append(line(source.name, moved, sum(there.values())))


def line(name: str, moved: Planned, carried: int) -> Line:
    tables = moved.report.tables
    return Line(
        name,
        len(tables),
        sum(table.source_rows for table in tables),
        sum(table.loaded for table in tables),
        sum(table.quarantined for table in tables),
        sum(table.excluded for table in tables),
        carried,
        moved.plan.not_carried,
        moved.seconds,
    )


@pytest.mark.parametrize("source", [f for f in FILES if f.name in BY_COMMAND_LINE], indirect=True, ids=lambda p: p.name)
async def test_command_line_moves_the_same(source: Path, tmp_path: Path, database_url: URL, home: Path) -> None:
    done = migrate(
        "--plan", "--source", source, "--json", env=environment(database_url, home), cwd=tmp_path, seconds=400
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = await compare(source, database_url)
    assert [text for table in found.values() for text in table.wrong] == []
    assert report["complete"] is True
    told = {table["table"]: table["loaded"] for table in report["tables"]}
    assert told == {table.table: table.rows for table in found.values()}
    (plan,) = home.glob(f"plans/{source.stem}-*")
    assert {path.name for path in plan.iterdir()} >= {"alembic.ini", "pgferry.toml", "report.md", "versions"}


# ---------------------------------------------------------------- the page


def rendered(lines: list[Line]) -> str:
    """Return docs/corpus.md."""
    total = Line(
        "**total**",
        sum(item.tables for item in lines),
        sum(item.rows for item in lines),
        sum(item.loaded for item in lines),
        sum(item.quarantined for item in lines),
        sum(item.excluded for item in lines),
        sum(item.carried for item in lines),
        tuple(left for item in lines for left in item.not_carried),
        sum(item.seconds for item in lines),
    )
    rows = "\n".join(_row(item) for item in [*lines, total])
    left = "\n".join(_left_row(item.file, left) for item in lines for left in item.not_carried)
    return f"""# {len(lines)} real files

Every file went through plan and move into an empty database of its own on {date.today():%Y-%m-%d}, by
`make corpus`. A comparison that shares no code with pgferry (`tests/acceptance/corpus_compare.py`) then read both
sides and found every cell of every table equal. "Objects" are keys, unique constraints, indexes, foreign keys,
checks, defaults and views; those that are not carried are listed below, each with its reason. Excluded are the rows
of alembic_version. The seconds are those of plan, schema, load and verification, without Prefect, on a small machine
with two cores that had other work too.

| file | tables | rows | loaded | quarantined | excluded | objects carried | not carried | seconds |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}

## Not carried

| file | what | table | name | reason |
| --- | --- | --- | --- | --- |
{left}
"""


def _row(item: Line) -> str:
    counts = (item.tables, item.rows, item.loaded, item.quarantined, item.excluded, item.carried, len(item.not_carried))
    return f"| {item.file} | {' | '.join(f'{count:,}' for count in counts)} | {item.seconds:.1f} |"


def _left_row(file: str, item: NotCarried) -> str:
    cells = (file, item.kind, item.table, item.name, item.reason)
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"
