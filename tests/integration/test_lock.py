"""One run at a time: the lock ends with its process, and whoever is refused is told who has it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgferry.errors import Permanent
from pgferry.postgres.lock import NAME_BYTES, RunLock, holder_name

HOLDER = """
import sys, time
from sqlalchemy.engine import make_url
from pgferry.postgres.lock import RunLock
with RunLock(make_url(sys.argv[1]), "killed.db"):
    print("held", flush=True)
    time.sleep(60)
"""


def take(url, source="b.db", patience=0.2) -> None:
    with RunLock(url, source, patience=patience) as lock:
        lock.check()


def test_a_second_run_is_refused_and_told_who_is_first(database_url):
    with RunLock(database_url, "/data/app.db") as lock:
        lock.check()
        with pytest.raises(
            Permanent, match=r"server process \d+ \(pgferry /data/app\.db, role .*, from .*, since \d{4}-"
        ) as caught:
            take(database_url)
        assert f"pg_terminate_backend({caught.value.details['pid']})" in caught.value.action
        assert caught.value.details["application_name"] == "pgferry /data/app.db"
        lock.check()
    take(database_url)


async def test_databases_of_one_server_have_locks_of_their_own(make_database):
    first, second = await make_database(), await make_database()
    with RunLock(first, "a"), RunLock(second, "a") as lock:
        await asyncio.to_thread(lock.check)


def test_waiting_a_little_is_enough_when_the_first_one_ends(database_url):
    first = RunLock(database_url, "a.db")
    with first:
        waiting = threading.Timer(0.3, lambda: first.__exit__(None, None, None))
        waiting.start()
        take(database_url, patience=10)
        waiting.join()


def test_an_error_in_the_block_releases_the_lock(database_url):
    with pytest.raises(ZeroDivisionError), RunLock(database_url, "a.db"):
        raise ZeroDivisionError
    take(database_url)


END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = 'pgferry a.db' AND datname = current_database()
"""


async def test_a_lock_whose_connection_is_lost_is_taken_again(database_url, connection):
    with RunLock(database_url, "a.db", look=3600) as lock:
        await asyncio.to_thread(lock.check)
        assert await connection.fetchval(END)
        await asyncio.to_thread(lock.check)
        with pytest.raises(Permanent, match=r"pgferry a\.db"):
            await asyncio.to_thread(take, database_url)


async def test_it_is_taken_again_without_being_asked_for(database_url, connection):
    with RunLock(database_url, "a.db", look=0.05):
        before = await connection.fetchval(HELD)
        assert await connection.fetchval(END)
        deadline = time.monotonic() + 120
        while (now := await connection.fetchval(HELD)) in (None, before):
            assert time.monotonic() < deadline, "the lock was not taken again"
            await asyncio.sleep(0.02)
    assert now is not None
    await asyncio.to_thread(take, database_url)


HELD = """
SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
 WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
"""


async def test_a_run_that_was_quicker_is_named(database_url, connection):
    with RunLock(database_url, "a.db", look=3600, patience=0.1) as lock:
        assert await connection.fetchval(END)
        with RunLock(database_url, "b.db"), pytest.raises(Permanent, match=r"pgferry b\.db"):
            await asyncio.to_thread(lock.check)
        await asyncio.to_thread(lock.check)


def test_a_killed_process_leaves_no_lock(database_url):
    url = database_url.render_as_string(hide_password=False)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Permanent, match=r"pgferry killed\.db"):
            take(database_url)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    began = time.monotonic()
    take(database_url, patience=5)
    assert time.monotonic() - began < 5


def test_threads_do_not_stay_behind(database_url):
    before = threading.active_count()
    for _ in range(3):
        take(database_url)
    with RunLock(database_url, "a"), pytest.raises(Permanent):
        take(database_url)
    assert threading.active_count() == before


def test_outside_its_block_a_lock_cannot_be_checked(database_url):
    lock = RunLock(database_url, "a")
    with pytest.raises(RuntimeError, match="outside its block"):
        lock.check()


def test_an_unreachable_server_is_an_error_of_the_connection(database_url):
    with pytest.raises(Exception, match="no-such-db"):
        take(database_url.set(database="no-such-db"))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("app.db", "pgferry app.db"),
        ("/x" * 60 + "/app.db", "pgferry ..." + ("/x" * 60 + "/app.db")[-52:]),
        ("/dätä/app.db", "pgferry /d?t?/app.db"),
    ],
)
def test_the_source_is_in_the_session_s_name_cut_to_what_the_server_keeps(source, name):
    assert holder_name(source) == name
    assert len(holder_name(source).encode()) <= NAME_BYTES


def test_many_threads_may_ask_at_once(database_url):
    with RunLock(database_url, "a") as lock, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: lock.check(), range(64))) == [None] * 64
