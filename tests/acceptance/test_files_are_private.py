"""What pgferry makes is for its owner only, whatever the umask: rows, passwords, logs, and what lies beside them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from sqlalchemy.engine import URL, make_url

from pgferry.files import plan_export, summary
from pgferry.live.environment import kept_file
from pgferry.operate.dump import find_programs, take_dump
from pgferry.operate.passwords import keep
from pgferry.plan.files import write_plan
from pgferry.plan.outcome import plan_folder
from pgferry.plan.plan import make_plan
from pgferry.postgres import embedded
from pgferry.sqlite.snapshot import take
from tests.acceptance.workload_schema import POSTGRES, create_sqlite
from tests.live import LiveMove
from tests.stack import Stack

PROGRAMS = "programs-*"
"""The embedded server's programs, where its account cannot run those of the environment: nobody's secret."""


@pytest.fixture(autouse=True)
def open_to_all() -> Iterator[None]:
    """Make files readable for everybody where nothing else is said."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    """Return a path's permissions; 0 for one that went away meanwhile."""
    try:
        return stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return 0


def open_files(home: Path) -> list[str]:
    """Return what another account may read or write below a home: a closed folder closes all that is in it.

    Root's folders above others may be passed through, for the account that runs the embedded server.
    """
    found = [] if mode_of(home) & 0o066 == 0 else [f"{mode_of(home):o} {home}"]
    for folder, folders, files in os.walk(home):
        inside = [Path(folder) / name for name in folders]
        folders[:] = [path.name for path in inside if mode_of(path) & 0o011 and not path.match(PROGRAMS)]
        wrong = [path for path in inside if mode_of(path) & 0o066 and not path.match(PROGRAMS)]
        wrong += [path for name in files if mode_of(path := Path(folder) / name) & 0o077 and not path.is_symlink()]
        found += [f"{mode_of(path):o} {path.relative_to(home)}" for path in wrong]
    return sorted(found)


class OwnHome(LiveMove):
    """A move whose home is not there yet: the application's environment file lies elsewhere."""

    @property
    def env_file(self) -> Path:
        """The application's environment file."""
        return self.source.with_name("application.env")


async def whole_life(move: LiveMove) -> None:
    """Go through a move without downtime, and back."""
    async with move.session() as server:
        for statement in POSTGRES:
            await server.execute(statement)
    await move.dual_write()
    assert (await move.validate()).passed
    await move.switch()
    await move.roll_back()
    await move.switch()


async def beside(move: LiveMove) -> None:
    """Make what the move itself does not: a plan, an export, a dump, the file of provision's passwords."""
    write_plan(make_plan(move.source), plan_folder(move.home, move.source))
    folder = move.home / "exports" / "app"
    summary(plan_export(take(move.source, move.home / "backups"), move.settings, move.rules, folder), [], folder)
    keep(move.home / "provision.env", {"A": make_url("postgresql://u:p@h/d")})
    async with move.session() as server:
        programs = find_programs(server.get_server_version().major)
    assert not isinstance(programs, str), programs
    take_dump(move.url, programs, move.home / "dumps" / "daily", "app", schema_only=True)


async def test_a_whole_life_leaves_nothing_that_others_may_read(tmp_path: Path, database_url: URL) -> None:
    create_sqlite(tmp_path / "app.db")
    move = OwnHome(database_url, tmp_path / "app.db", tmp_path / "made" / "home")
    move.env_file.write_text(f"DATABASE_URL=sqlite:///{move.source}\nSECRET=s\n")
    move.env_file.chmod(0o640)
    await whole_life(move)
    assert mode_of(move.env_file) == 0o640, "the application's file stays as it is"
    await beside(move)
    assert {mode_of(path) & 0o177 for path in [kept_file(move.settings), *(move.home / "backups").iterdir()]} == {0}
    made = {path.name for path in move.home.iterdir()}
    assert {"backups", "staging", "plans", "exports", "dumps", "provision.env"} <= made, made
    assert open_files(move.home.parent) == []
    await move.clean_up()
    assert open_files(move.home.parent) == []


def test_the_embedded_server_leaves_nothing_that_others_may_read() -> None:
    top = Path(mkdtemp(prefix="pgferry-test-"))
    top.chmod(0o755)
    home = top / "made" / "home"
    try:
        server = embedded.start(home)
        assert server.data.is_relative_to(home)
        assert [mode_of(path) for path in (server.data, server.password_file)] == [0o700, 0o600]
        assert open_files(home.parent) == []
    finally:
        embedded.stop(home)
        shutil.rmtree(top)


def test_prefects_server_and_worker_leave_nothing_that_others_may_read(
    stack: Stack, deployed_run: subprocess.CompletedProcess[str]
) -> None:
    assert deployed_run.returncode == 0
    assert {"prefect", "backups", "staging"} <= {path.name for path in stack.home.iterdir()}
    assert open_files(stack.home) == []
