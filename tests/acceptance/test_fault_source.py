"""Another program holds the source exclusively: for a while it is waited for, for too long it is told of."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pgferry.errors import Transient
from pgferry.sqlite import snapshot
from tests.acceptance.victim import Place

HOLDER = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
held.execute("UPDATE items SET name = name || ' (held)' WHERE id % 5 = 0")
print("held", flush=True)
try:
    sys.stdin.readline() if sys.argv[2] == "-" else __import__("time").sleep(float(sys.argv[2]))
finally:
    held.execute("COMMIT")
"""


@contextmanager
def held(source: Path, seconds: float | None = None) -> Iterator[None]:
    """Let another process hold the file exclusively: from now on for so long, or for the block; it writes, too."""
    arguments = [sys.executable, "-c", HOLDER, str(source), "-" if seconds is None else str(seconds)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.communicate("\n" if seconds is None else None, timeout=300)
    assert holder.returncode == 0


@pytest.fixture
def copied(place: Place, tmp_path: Path) -> Place:
    """The same source as a file of the test's own, without a WAL: there an exclusive lock keeps readers out, too."""
    source = tmp_path / "app.db"
    shutil.copyfile(place.source, source)
    with closing(sqlite3.connect(source)) as file:
        assert file.execute("PRAGMA journal_mode = delete").fetchone() == ("delete",)
    return replace(place, source=source)


def test_a_source_that_is_held_for_a_while_is_waited_for(copied: Place) -> None:
    victim = copied.victim()
    with held(copied.source, 2.0):
        assert asyncio.run(victim.attempt()) is None
    victim.assert_moved()


def test_a_source_that_stays_held_is_named_and_nothing_is_changed(
    copied: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = copied.victim()
    monkeypatch.setattr(snapshot, "LOCK_SECONDS", 1.0)
    with held(copied.source):
        failed = asyncio.run(victim.attempt())
        assert isinstance(failed, Transient)
        assert "locked by another" in failed.message
        assert failed.action
        assert not list(victim.home.rglob("*.part"))
        victim.assert_rows_are_those_of_the_ledger()
    assert asyncio.run(victim.attempt()) is None
    victim.assert_moved()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_outlasts_a_lock_of_half_a_minute(copied: Place) -> None:
    victim = copied.victim()
    with held(copied.source, 30.0):
        ended = victim.migrate("--json")
    assert ended.returncode == 0, ended.stderr
    victim.assert_moved()
