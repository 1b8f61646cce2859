"""A way to the server without TLS is told where a move begins."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pgferry.settings import Rules
from tasks import run
from tests.acceptance.workload_schema import create_sqlite
from tests.integration.test_tls import from_outside

LOG = logging.getLogger("plain text")


async def begun(url: URL, source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Begin a run, and return what is warned of."""
    create_sqlite(source)
    monkeypatch.setenv("OUTSIDE", url.render_as_string(hide_password=False))
    monkeypatch.setattr(run, "get_run_logger", lambda: LOG)
    await asyncio.to_thread(run.open_run.fn, source, "OUTSIDE", Rules(), False)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_off_loopback_it_is_warned_of_once(
    database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with from_outside(database_url.set(query={"sslmode": "disable"})) as url:
        (warning,) = await begun(url, tmp_path / "app.db", monkeypatch, caplog)
    assert f"the connection to {url.host} is not encrypted" in warning
    assert "sslmode=verify-full" in warning
    assert str(database_url.password) not in warning


async def test_on_loopback_nothing_is_said(
    database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert await begun(database_url, tmp_path / "app.db", monkeypatch, caplog) == []
