"""The ways to move a file, each a whole process: what is run, and what it begins with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL

from benchmarks.contest_figures import Run
from benchmarks.contest_place import ROOT, Ground, Place, Prepared
from benchmarks.floor import QUIETLY, find_psql, libpq
from pgferry.quoting import literal

CLOCK = Path(__file__).with_name("contest_clock.py")

PATIENCE = 3600
"""Seconds after which a way is given up."""

INDEX_MEMORY = "256MB"
"""maintenance_work_mem of every way that builds its indexes itself; pgferry's default."""


class Failed(Exception):
    """A way did not come to its end, or lost rows; the text says how."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command, run in a folder of its own, and what its environment has besides this process's."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to move a file. `job` gets the place, the file, the fresh database and the folder to run in."""

    key: str
    name: str
    says: str
    """What it does and what not, for the page."""
    job: Callable[[Place, Prepared, URL, Path], Job]
    ground: Ground = Ground.SCHEMA
    ground_planned: Ground = Ground.SCHEMA
    """Of a file whose schema is proposed from its data."""
    row_wise: bool = False
    """Whether it is run on the sample only, and only on few rows."""
    program: Callable[[Place], Path | None] = lambda _: Path(sys.executable)
    """What must be there."""

    def begins_with(self, ready: Prepared) -> Ground:
        """Return the database to begin with."""
        return self.ground_planned if ready.source.planned else self.ground


def run(job: Job, folder: Path) -> Run:
    """Run a job to its end in a folder. Raises Failed with the end of its output."""
    result = folder / "clock"
    command = [sys.executable, "-I", "-S", str(CLOCK), str(result), *job.command]
    environment = {**os.environ, **job.environment}
    with (folder / "stderr").open("w+") as errors:
        # A session of its own, so that all of it can be ended together.
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        output = _output(process)
        errors.seek(0)
        told = f"{output}\n{errors.read()}"
    seconds, peak, code = result.read_text("utf-8").split() if result.exists() else ("0", "0", str(process.returncode))
    if code != "0":
        raise Failed(f"ended with {code}: {_last_line(told)}")
    return Run(float(seconds), int(peak), _steps(output))


def _output(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=PATIENCE)[0]
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Failed(f"not at its end after {PATIENCE:,} s") from error
        raise


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def _steps(output: str) -> dict[str, float]:
    """Return the steps that pgferry and the floor tell of in JSON; none for others."""
    if not output.startswith("{"):
        return {}
    steps = json.loads(output)["steps"]
    return steps if isinstance(steps, dict) else {step["step"]: step["seconds"] for step in steps}


# ---------------------------------------------------------------- jobs


def _pgferry(url: URL, folder: Path) -> dict[str, str]:
    # The folder, in which no .env and no pgferry.toml of the person's lies, is the working directory.
    return {
        "PYTHONPATH": str(ROOT),
        "PGFERRY_TARGET": url.render_as_string(hide_password=False),
        "PGFERRY_HOME": str(folder),
        "PGFERRY_INDEX_MEMORY": INDEX_MEMORY,
    }


def _migrate(place: Place, ready: Prepared, url: URL, folder: Path) -> Job:
    command = [sys.executable, "-m", "flows", "migrate", "--source", str(ready.source.path), "--json"]
    environment = {**place.prefect, **_pgferry(url, folder)}
    if ready.source.planned:
        return Job([*command, "--plan"], environment)
    return Job(command, {**environment, **ready.environment})


def _library(*options: str) -> Callable[[Place, Prepared, URL, Path], Job]:
    def job(_: Place, ready: Prepared, url: URL, folder: Path) -> Job:
        command = [sys.executable, "-m", "benchmarks.bare_move", str(ready.source.path), *options]
        return Job(command, {**_pgferry(url, folder), **ready.environment})

    return job


def _pgloader(place: Place, ready: Prepared, url: URL, folder: Path) -> Job:
    script = folder / "move.load"
    script.touch(0o600)
    target = url.set(drivername="postgresql").render_as_string(hide_password=False)
    script.write_text(
        f"LOAD DATABASE FROM sqlite://{ready.source.path} INTO {target}"
        f" SET maintenance_work_mem TO {literal(INDEX_MEMORY)};\n",
        "utf-8",
    )
    return Job([str(_which("pgloader")(place)), "--root-dir", str(folder / "pgloader"), str(script)])


def _row_wise(way: str) -> Callable[[Place, Prepared, URL, Path], Job]:
    def job(_: Place, ready: Prepared, url: URL, folder: Path) -> Job:
        return Job([sys.executable, "-m", "benchmarks.rowwise", way, str(ready.source.path)], _pgferry(url, folder))

    return job


def _floor(place: Place, ready: Prepared, url: URL, folder: Path) -> Job:
    script = folder / "floor.sql"
    script.write_text(ready.floor.script(INDEX_MEMORY), "utf-8")
    return Job([str(psql(place)), *QUIETLY, f"--file={script}"], libpq(url))


def psql(place: Place) -> Path | None:
    """Return the psql to use, or None."""
    return find_psql(place.server.bin_dir)


def _which(name: str) -> Callable[[Place], Path | None]:
    def find(_: Place) -> Path | None:
        found = shutil.which(name)
        return Path(found) if found else None

    return find


MIGRATE, LIBRARY, UNVERIFIED = "migrate", "library", "unverified"
PGLOADER, GUIDE, PANDAS, FLOOR = "pgloader", "guide", "pandas", "floor"

WAYS: tuple[Way, ...] = (
    Way(
        MIGRATE,
        "`pgferry migrate`",
        "backup, Parquet, load, indexes, foreign keys, every cell compared; Prefect's server runs already",
        _migrate,
        ground_planned=Ground.EMPTY,
    ),
    Way(LIBRARY, "pgferry without Prefect", "the same by the library alone, on threads", _library()),
    Way(
        UNVERIFIED,
        "pgferry without Prefect, unverified",
        "the same without reading the rows back",
        _library("--no-verification"),
    ),
    Way(
        PGLOADER,
        "pgloader",
        "its defaults (4 workers, concurrency 1), maintenance_work_mem as pgferry's; makes tables, indexes and "
        "foreign keys; no backup, no Parquet, nothing compared",
        _pgloader,
        ground=Ground.EMPTY,
        ground_planned=Ground.EMPTY,
        program=_which("pgloader"),
    ),
    Way(
        GUIDE,
        "JSON and ORM",
        "as guides tell: each table to a JSON file, ORM objects of it, `add_all`, one commit, indexes in place; "
        "nothing compared",
        _row_wise(GUIDE),
        row_wise=True,
    ),
    Way(
        PANDAS,
        "pandas `to_sql`",
        "`read_sql` in chunks of 10,000, `to_sql` with its default method, indexes in place; nothing compared",
        _row_wise(PANDAS),
        row_wise=True,
    ),
    Way(
        FLOOR,
        "floor",
        "psql alone, by `\\copy`: ready-made binary files into bare tables, then keys and indexes one after the other; "
        "SQLite is not read, no foreign keys",
        _floor,
        ground=Ground.BARE,
        ground_planned=Ground.BARE,
        program=psql,
    ),
)


def find_way(key: str) -> Way:
    """Return a way by its key."""
    return next(way for way in WAYS if way.key == key)
