"""The dump before a change of the schema: whole, readable, by a fitting program, and without the password on show."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL, make_url

from pgferry.errors import Permanent
from pgferry.operate.dump import Programs, connection_string, find_programs, take_dump
from pgferry.postgres.connection import connect

MakeDatabase = Callable[[], Awaitable[URL]]
Connected = asyncpg.Connection

SPY = """#!/bin/sh
printf '%s\\n' "$@" >> "{log}"
exec "{program}" "$@"
"""


@pytest.fixture
async def programs(connection: Connected) -> Programs:
    """The programs that fit the server of the tests."""
    found = find_programs(connection.get_server_version().major)
    assert isinstance(found, Programs), found
    return found


async def test_a_dump_comes_back_whole(
    make_database: MakeDatabase, database_url: URL, connection: Connected, programs: Programs, tmp_path: Path
) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY, word text)")
    await connection.execute("INSERT INTO t VALUES (1, 'eins'), (2, NULL)")
    dump = await asyncio.to_thread(take_dump, database_url, programs, tmp_path / "dumps", "app-0001")
    assert (dump.path.parent, dump.path.suffix, dump.entries > 0) == (tmp_path / "dumps", ".dump", True)
    assert dump.path.name.startswith("app-0001-")
    assert stat.S_IMODE(dump.path.stat().st_mode) == 0o600
    assert [path.suffix for path in dump.path.parent.iterdir()] == [".dump"]

    other = await make_database()
    assert dump.to_json()["restore"] == f"{programs.pg_restore} --dbname=DATABASE {dump.path}"
    restored = await asyncio.to_thread(
        subprocess.run,
        [str(dump.restore), "--exit-on-error", f"--dbname={connection_string(other)}", str(dump.path)],
        env={**os.environ, "PGPASSWORD": str(other.password)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert restored.returncode == 0, restored.stderr
    reader = await connect(other)
    try:
        assert [tuple(row) for row in await reader.fetch("SELECT * FROM t ORDER BY id")] == [(1, "eins"), (2, None)]
    finally:
        await reader.close()


async def test_a_dump_of_the_schema_alone_holds_no_rows(
    database_url: URL, connection: Connected, programs: Programs, tmp_path: Path
) -> None:
    await connection.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    dump = await asyncio.to_thread(take_dump, database_url, programs, tmp_path, "app", schema_only=True)
    listed = subprocess.run([programs.pg_restore, "--list", dump.path], capture_output=True, text=True, check=True)
    assert "TABLE public t" in listed.stdout
    assert "TABLE DATA" not in listed.stdout
    assert dump.path.name.endswith("-schema.dump")


async def test_the_password_is_no_argument(
    database_url: URL, programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spied, log = tmp_path / "bin", tmp_path / "arguments"
    spied.mkdir()
    for program in (programs.pg_dump, programs.pg_restore):
        (spied / program.name).write_text(SPY.format(log=log, program=program))
        (spied / program.name).chmod(0o755)
    monkeypatch.setenv("PG_BIN_DIR", str(spied))
    found = find_programs(programs.major)
    assert isinstance(found, Programs)
    assert found.pg_dump.parent == spied
    await asyncio.to_thread(take_dump, database_url, found, tmp_path, "app")
    seen = log.read_text()
    assert f"dbname='{database_url.database}'" in seen
    assert "--list" in seen
    assert database_url.password
    assert str(database_url.password) not in seen


async def test_a_dump_that_fails_leaves_no_file_and_says_why(
    database_url: URL, programs: Programs, tmp_path: Path
) -> None:
    wrong = database_url.set(database="nowhere")
    with pytest.raises(Permanent, match=r'nothing was changed: .*"nowhere" does not exist.*--no-dump') as caught:
        await asyncio.to_thread(take_dump, wrong, programs, tmp_path / "dumps", "app")
    assert str(database_url.password) not in str(caught.value)
    assert list((tmp_path / "dumps").iterdir()) == []


def test_an_older_program_is_refused_and_named() -> None:
    found = find_programs(99)
    assert isinstance(found, str)
    assert found.startswith("pg_dump is older than the server, which is PostgreSQL 99: found was PostgreSQL ")


def test_options_of_the_url_are_handed_on_and_the_password_is_not() -> None:
    url = make_url("postgresql+asyncpg://me:s%27ecret@h:5433/d%20b?ssl=true&statement_cache_size=0&password=x")
    assert connection_string(url) == "host='h' port='5433' user='me' dbname='d b' sslmode='require'"
    assert connection_string(make_url("postgresql:///it's?host=/run/pg")) == "host='/run/pg' dbname='it\\'s'"
