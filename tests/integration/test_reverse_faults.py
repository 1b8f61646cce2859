"""What stands against the way back, and kills in the middle of it: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from pgferry.errors import Permanent, Transient
from pgferry.live import reverse, write_back
from pgferry.live.reverse import sync_back, uncarried_keys
from pgferry.postgres import capture as target_capture
from pgferry.postgres.connection import connect
from pgferry.postgres.journal import (
    lock_sync,
)
from pgferry.sqlite import capture as source_capture
from pgferry.sqlite import fence as source_fence
from tests.integration.switched import switch

__all__ = ["switch"]


# ---------------------------------------------------------------- what stands against it


async def test_nothing_is_written_when_sqlite_is_in_front(switch):
    s = await switch("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id integer PRIMARY KEY)")
    await s.connection.execute("INSERT INTO t VALUES (1)")
    with source_fence.writing(s.path) as target:
        source_capture.set_note(target, "front", "sqlite")
    with pytest.raises(Permanent, match="says that sqlite is in front"):
        await sync_back(s.connection, s.live, s.forms)
    assert s.rows() == []
    assert await uncarried_keys(s.connection, s.live) == {"t": [(1,)]}


async def test_an_emergency_between_reading_and_writing_is_noticed(switch, monkeypatch):
    s = await switch("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id integer PRIMARY KEY)")
    await s.connection.execute("INSERT INTO t VALUES (1)")

    def late(*args, **kwargs):
        with source_fence.writing(s.path) as target:
            source_capture.set_note(target, "front", "sqlite")
        return write_back.write_back(*args, **kwargs)

    monkeypatch.setattr(reverse, "write_back", late)
    with pytest.raises(Permanent, match="says that sqlite is in front"):
        await sync_back(s.connection, s.live, s.forms)
    assert s.rows() == []


async def test_older_rows_never_overwrite_newer_ones(switch, monkeypatch):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a')",
        "CREATE TABLE t (id integer PRIMARY KEY, v text)",
    )
    await s.connection.execute("UPDATE t SET v = 'old'")

    def late(*args, **kwargs):
        with source_fence.writing(s.path) as target:  # another sync, that took the lock when this one's was lost
            target.execute("UPDATE t SET v = 'new'")
            source_capture.set_note(target, "carried", "1")
        return write_back.write_back(*args, **kwargs)

    monkeypatch.setattr(reverse, "write_back", late)
    with pytest.raises(Transient, match="Another process has carried changes"):
        await sync_back(s.connection, s.live, s.forms)
    assert s.rows() == [(1, "new")]


async def test_a_value_that_sqlite_has_no_form_for_is_named_and_nothing_is_written(switch):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME); CREATE TABLE u (id INTEGER PRIMARY KEY)",
        "CREATE TABLE t (id integer PRIMARY KEY, at timestamp); CREATE TABLE u (id integer PRIMARY KEY)",
    )
    await s.connection.execute("INSERT INTO t VALUES (1, 'infinity'); INSERT INTO u VALUES (1)")
    with pytest.raises(Permanent, match=r"t\.at holds .*infinity"):
        await s.sync()
    assert s.rows() == s.rows("u") == []
    await s.run("UPDATE t SET at = '2024-01-01'")
    assert s.rows() == [(1, "2024-01-01 00:00:00.000000")]
    assert s.rows("u") == [(1,)]


async def test_a_gap_in_the_capture_stops_it(switch):
    s = await switch("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id integer PRIMARY KEY)")
    await s.connection.execute("INSERT INTO t VALUES (1); ALTER TABLE t DISABLE TRIGGER ALL")
    with pytest.raises(Permanent, match="not captured"):
        await sync_back(s.connection, s.live, s.forms)
    assert s.rows() == []


async def test_rows_that_a_policy_would_hide_are_no_deleted_rows(switch, database_url):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)", "CREATE TABLE t (id integer PRIMARY KEY)"
    )
    role = f"sync_{database_url.database[-8:]}"
    await s.connection.execute(f"""
        UPDATE t SET id = 1; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE ROLE {role};
        GRANT ALL ON ALL TABLES IN SCHEMA public, pgferry TO {role}; GRANT USAGE ON SCHEMA pgferry TO {role};
        SET ROLE {role}""")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await sync_back(s.connection, s.live, s.forms)
    finally:
        await s.connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    assert s.rows() == [(1,)]


# ---------------------------------------------------------------- crashes

STEPS = ("before SQLite's commit", "after SQLite's commit", "after PostgreSQL's commit")

CHILD = """
import asyncio, os, pickle, signal, sys
from sqlalchemy.engine import make_url
from pgferry.live import reverse
from pgferry.postgres.connection import connect
from pgferry.postgres.journal import lock_sync
from pgferry.sqlite import fence

step = sys.argv[1]
live, forms = pickle.load(open(sys.argv[3], "rb"))

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if step == "before SQLite's commit":
    fence.put_triggers_back = die
elif step == "after SQLite's commit":
    reverse._settle = die
else:
    reverse.prune = die

async def main():
    connection = await connect(make_url(sys.argv[2]))
    await lock_sync(connection)
    await reverse.sync_back(connection, live, forms)

asyncio.run(main())
"""


@pytest.mark.parametrize("step", STEPS)
async def test_a_killed_cycle_is_done_again_and_both_sides_are_equal(switch, database_url, tmp_path, step):
    s = await switch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE); CREATE TABLE bare (n TEXT);"
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "CREATE TABLE t (id integer PRIMARY KEY, u text UNIQUE DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE bare (n text)",
    )
    await s.connection.execute("""
        UPDATE t SET u = CASE id WHEN 1 THEN 'b' ELSE 'a' END WHERE id < 3; UPDATE t SET id = 30 WHERE id = 3;
        INSERT INTO bare (n) VALUES ('x'), ('x')""")
    await s.connection.execute("SELECT pg_advisory_unlock_all()")
    before = s.rows()
    (tmp_path / "live").write_bytes(pickle.dumps((s.live, s.forms)))
    url = database_url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", CHILD, step, url, str(tmp_path / "live")]
    child = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    after = [(1, "b"), (2, "a"), (30, "c")]
    assert s.rows() == (before if step == STEPS[0] else after)
    await lock_sync(s.connection)
    await s.connection.execute("DELETE FROM t WHERE id = 2")
    await s.sync()
    assert s.rows() == [(1, "b"), (30, "c")]
    assert s.rows("bare", "rowid, n") == [(1, "x"), (2, "x")]


async def test_writes_that_commit_during_a_cycle_are_carried_by_the_next(switch, database_url, monkeypatch):
    s = await switch("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id integer PRIMARY KEY)")
    other = await connect(database_url)
    try:
        await other.execute("BEGIN; INSERT INTO t VALUES (1)")  # the lower id commits later
        await s.connection.execute("INSERT INTO t VALUES (2)")
        real = write_back.write_back
        loop = asyncio.get_running_loop()

        def meanwhile(*args, **kwargs):
            asyncio.run_coroutine_threadsafe(other.execute("COMMIT"), loop).result()
            return real(*args, **kwargs)

        monkeypatch.setattr(reverse, "write_back", meanwhile)
        await sync_back(s.connection, s.live, s.forms)
        assert s.rows() == [(2,)]
        monkeypatch.setattr(reverse, "write_back", real)
        assert await target_capture.pending(s.connection, s.live) == {"t": 1}
        await s.sync()
        assert s.rows() == [(1,), (2,)]
    finally:
        await other.close()


async def test_a_cancelled_cycle_leaves_no_thread_that_writes_later(switch, monkeypatch):
    s = await switch("CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE t (id integer PRIMARY KEY)")
    await s.connection.execute("INSERT INTO t VALUES (1)")
    began, done = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def slow(*args, **kwargs):
        loop.call_soon_threadsafe(began.set)
        time.sleep(0.3)
        done.append(write_back.write_back(*args, **kwargs))
        return done[0]

    monkeypatch.setattr(reverse, "write_back", slow)
    task = asyncio.create_task(sync_back(s.connection, s.live, s.forms))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done
    assert s.rows() == [(1,)]
