"""Dual-write is refused before anything is changed when the checklist says so; one that has begun is let go on."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger
from sqlalchemy.engine import URL

from pgferry.errors import Permanent
from pgferry.live.model import Phase
from pgferry.live.phases import enter
from pgferry.postgres.connection import connection
from pgferry.postgres.ledger import Run
from pgferry.postgres.runs import open_run
from pgferry.settings import Rules
from tasks.preflight import look_ahead


async def prepared(url: URL, file: Path) -> Run:
    """Begin a run whose target holds a row of somebody else."""
    async with connection(url) as server:
        await server.execute("CREATE TABLE items (id bigint PRIMARY KEY)")
        await server.execute("INSERT INTO items VALUES (1)")
        return await open_run(server, file, Rules(), restart=False)


async def begun(url: URL, run: Run) -> None:
    """Enter the first phase."""
    async with connection(url) as server:
        await enter(server, run.id, Phase.LOADING, "by the test", {})


def test_rows_in_the_target_stand_in_the_way_of_a_beginning_only(
    database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_TARGET", database_url.render_as_string(hide_password=False))
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect(tmp_path / "app.db")) as made:
        made.execute("CREATE TABLE items (id INTEGER PRIMARY KEY)")
        made.commit()
    run = asyncio.run(prepared(database_url, tmp_path / "app.db"))
    with disable_run_logger():
        with pytest.raises(Permanent, match=r"preflight fails: .*rows in the target"):
            look_ahead.fn(run, "OTHER_TARGET", "")
        asyncio.run(begun(database_url, run))
        assert look_ahead.fn(run, "OTHER_TARGET", "") == ()
