"""The embedded server: a private PostgreSQL in a data folder of its own, for a move that names no target.

Its folder is HOME/postgres: `data`, `server.log`, `pgpass` (mode 0600). It listens on 127.0.0.1 only, asks for a
password, and lives on after the process that started it, until `stop`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from types import MappingProxyType
from typing import TypeVar

import asyncpg
from sqlalchemy.engine import URL

from pgferry.errors import FerryError, Permanent, Transient
from pgferry.postgres import binaries, server_settings
from pgferry.postgres.binaries import binary, find_binaries
from pgferry.postgres.place import Place, find_place, give, make_place
from pgferry.private import make_folder, opener
from pgferry.quoting import quote

__all__ = ["EmbeddedServer", "binary", "create_database", "find_binaries", "running", "start", "stop"]

USER = "ferry"
DATABASE = "pgferry"
"""The database that a move without a target goes to."""

START_SECONDS = 120
"""How long a start may take; recovery after a crash is what takes long."""

START_ATTEMPTS = 10
"""Another program may take the free port first, and the processes of a killed server take a moment to end."""

STOP_SECONDS = 60
NOT_RUNNING = 3
"""The exit code of `status` and `psql` without a server, as pg_ctl has it."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class EmbeddedServer:
    """A running embedded server; `pid` is its postmaster, `socket` the folder of its Unix socket if it has one."""

    data: Path
    port: int
    user: str
    pid: int
    bin_dir: Path
    socket: Path | None
    password_file: Path
    password: str = field(repr=False)

    def url(self, database: str = "postgres") -> URL:
        """Return the URL of one of its databases, with the password."""
        return URL.create("postgresql+asyncpg", self.user, self.password, "127.0.0.1", self.port, database)

    def psql(self, database: str = "postgres") -> str:
        """Return the shell command that opens a database in psql; the password stays in its file."""
        program = self.bin_dir / "psql"
        parts = (f"PGPASSFILE={shlex.quote(str(self.password_file))}", shlex.quote(str(program)), "-h 127.0.0.1")
        return f"{' '.join(parts)} -p {self.port} -U {self.user} -d {shlex.quote(database)}"


def start(home: Path, settings: Mapping[str, str] = MappingProxyType({}), port: int | None = None) -> EmbeddedServer:
    """Return the running server of a home; make and start it when needed.

    `settings` are server settings (`max_connections`, …). A running server is restarted only when it was started with
    another value of a given one; those that are not given stay as they are. Safe to call from several processes at
    once. Raises Permanent with the end of the server's log when it does not start.
    """
    server_settings.check(settings)
    with _system_errors(home), _locked(home):
        return _start(make_place(home), settings, port)


def stop(home: Path) -> bool:
    """Stop the server of a home, its clients disconnected. Returns whether one was running."""
    with _system_errors(home):
        if not find_place(home).data.exists():
            return False
        with _locked(home):
            return _stop(find_place(home))


def running(home: Path) -> EmbeddedServer | None:
    """Return the running server of a home, or None. A server that is still starting is waited for."""
    with _system_errors(home):
        place = find_place(home)
        return _running(place) if place.data.exists() else None


async def create_database(server: EmbeddedServer, name: str) -> URL:
    """Make a database unless it exists, and return its URL."""
    connection = await _connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {quote(name)}")
    except asyncpg.DuplicateDatabaseError:
        pass
    finally:
        await connection.close()
    return server.url(name)


# ---------------------------------------------------------------- start and stop


def _start(place: Place, settings: Mapping[str, str], port: int | None) -> EmbeddedServer:
    bin_dir = _binaries(place)
    if not place.data.exists():
        _initialise(place, bin_dir)
    server = _running(place)
    before = server_settings.read(place)
    given = {**settings, **({"port": str(port)} if port else {})}
    if server is not None and all(before.get(name) == value for name, value in given.items()):
        return server
    _stop(place)
    if port and server_settings.free_port(port) is None:
        raise Permanent(f"Port {port} of 127.0.0.1 is in use.", "Name another port, or none: a free one is found then.")
    _disown_stale_pid(place)
    try:
        return _launch(place, bin_dir, {**server_settings.defaults(), **before, **given})
    except Permanent:
        server_settings.write(place, before)  # Or the next start would fail by the same setting.
        raise


def _launch(place: Place, bin_dir: Path, settings: Mapping[str, str]) -> EmbeddedServer:
    log = ""
    for _ in range(START_ATTEMPTS):
        port = server_settings.free_port(int(settings.get("port", 0))) or server_settings.free_port()
        server_settings.write(place, {**settings, "port": str(port), **server_settings.addresses(place, port or 0)})
        log_start = _log_size(place)
        if _pg_ctl(place, bin_dir, "start", "-w", "-t", str(START_SECONDS)):
            server = _running(place)
            if server is not None:
                return server
        log = _log_since(place, log_start)
        if "pre-existing shared memory block" in log:
            time.sleep(1)  # The last processes of a killed server are still ending.
        elif "Address already in use" not in log:
            break
    raise Permanent(
        f"The embedded PostgreSQL in {place.data} did not start. The end of {place.log}:\n{_tail(log)}\n",
        "Correct what the log names; the settings come from pgferry.conf and postgresql.conf in the data folder.",
    )


def _stop(place: Place) -> bool:
    pid = _postmaster(place)
    if pid is None:
        return False
    log_start = _log_size(place)
    os.kill(pid, signal.SIGINT)  # Its "fast" way: transactions are rolled back, clients sent away.
    deadline = time.monotonic() + STOP_SECONDS
    while _postmaster(place) == pid:
        if time.monotonic() > deadline:
            raise Permanent(
                f"The embedded PostgreSQL in {place.data} (pid {pid}) did not stop within {STOP_SECONDS} seconds."
                f" The end of {place.log}:\n{_tail(_log_since(place, log_start))}\n",
                "Try again, or end that process.",
            )
        time.sleep(0.05)
    return True


def _pg_ctl(place: Place, bin_dir: Path, command: str, *options: str) -> bool:
    # No pg_ctl -l: the server inherits our open log, which may lie where its account cannot go. pg_ctl starts it in a
    # session of its own, so it outlives the caller and holds none of its pipes.
    with open(place.log, "ab", opener=opener) as log:
        done = subprocess.run(
            [str(binary("pg_ctl", bin_dir)), command, "-s", "-D", str(place.data), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=binaries.clean_environment(),
            check=False,
            **binaries.run_as(place.account),
        )
    return done.returncode == 0


def _initialise(place: Place, bin_dir: Path) -> None:
    for left in place.store.glob("new-*"):
        shutil.rmtree(left)
    draft = Path(mkdtemp(prefix="new-", dir=place.store))
    try:
        give(draft, place.account)
        password = secrets.token_hex(24)
        entered = draft / "password"
        server_settings.write_private(entered, password)
        give(entered, place.account)
        _initdb(draft / "data", entered, bin_dir, place)
        server_settings.write_private(place.passwords, f"127.0.0.1:*:*:{USER}:{password}\n")
        (draft / "data").rename(place.data)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _initdb(data: Path, password: Path, bin_dir: Path, place: Place) -> None:
    options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--data-checksums", f"--username={USER}"]
    if binaries.major_version(bin_dir, place.account) >= 17:
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    program = binary("initdb", bin_dir)
    outcome = binaries.run(program, f"--pgdata={data}", f"--pwfile={password}", *options, account=place.account)
    if outcome.code:
        raise Permanent(
            f"initdb could not make a data folder in {place.store}: {_tail(outcome.output)}\n",
            "Check the folder's permissions and the free space.",
        )
    with (data / "postgresql.conf").open("a", encoding="utf-8") as configuration:
        configuration.write("\ninclude_if_exists = 'pgferry.conf'\n")


def _binaries(place: Place) -> Path:
    made_by = place.data / "PG_VERSION"
    major = int(made_by.read_text("utf-8")) if made_by.exists() else None
    bin_dir = binaries.runnable(find_binaries(major), place.store, place.account)
    if major not in (None, found := binaries.major_version(bin_dir, place.account)):
        raise Permanent(
            f"The data folder {place.data} was made by PostgreSQL {major}, and {bin_dir} is PostgreSQL {found}.",
            f"Set PG_BIN_DIR to a PostgreSQL {major}, or PGFERRY_HOME to another folder.",
        )
    return bin_dir


# ---------------------------------------------------------------- is it running?


def _running(place: Place) -> EmbeddedServer | None:
    server = _described(place)
    return server if server is not None and _answers(server) else None


def _described(place: Place) -> EmbeddedServer | None:
    """Return the server that postmaster.pid and a living process tell of."""
    pid = _postmaster(place)
    port, folder = _listening(place)
    if pid is None or port is None:
        return None
    user, password = place.passwords.read_text("utf-8").strip().split(":")[-2:]
    return EmbeddedServer(
        data=place.data,
        port=port,
        user=user,
        pid=pid,
        bin_dir=_running_binaries(place),
        socket=Path(folder) if folder else None,
        password_file=place.passwords,
        password=password,
    )


def _running_binaries(place: Place) -> Path:
    # postmaster.opts: the program's path, then each argument as ` "argument"`.
    started = (place.data / "postmaster.opts").read_text("utf-8", "surrogateescape")
    return Path(started.split(' "', 1)[0].strip()).parent


def _answers(server: EmbeddedServer) -> bool:
    """Say whether the server that listens there is this one; waits while it starts up."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return Path(_wait_for(_data_directory(server))).samefile(server.data)
        except asyncpg.CannotConnectNowError:
            if time.monotonic() > deadline:
                raise Transient(
                    f"The embedded PostgreSQL in {server.data} is still starting after {START_SECONDS} seconds.",
                    "Try again later; it may be recovering from a crash.",
                ) from None
            time.sleep(0.2)
        except asyncpg.TooManyConnectionsError:
            return True
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False


async def _data_directory(server: EmbeddedServer) -> str:
    connection = await _connect(server)
    try:
        return str(await connection.fetchval("SHOW data_directory"))
    finally:
        await connection.close()


async def _connect(server: EmbeddedServer) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(
        host="127.0.0.1",
        port=server.port,
        user=server.user,
        password=server.password,
        database="postgres",
        ssl=False,
        timeout=10,
    )


def _postmaster(place: Place) -> int | None:
    """Return the pid in postmaster.pid if that process is a server of this data folder."""
    pid = _recorded_pid(place)
    return pid if pid is not None and _is_server(pid, place.data) else None


def _recorded_pid(place: Place) -> int | None:
    first = _pid_file(place)[0].strip()
    return int(first) if first.isdigit() else None


def _listening(place: Place) -> tuple[int | None, str]:
    """Return the port and the folder of the Unix socket that the running server wrote down."""
    lines = _pid_file(place)
    port, folder = (lines[3], lines[4]) if len(lines) > 5 else ("", "")
    return (int(port) if port.isdigit() else None, folder.strip())


def _pid_file(place: Place) -> list[str]:
    """Return the lines of postmaster.pid (pid, data folder, start time, port, socket folder, …); one empty if none."""
    try:
        return (place.data / "postmaster.pid").read_text("utf-8", "surrogateescape").split("\n")
    except FileNotFoundError:
        return [""]


def _is_server(pid: int, data: Path) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    if not Path("/proc/self/cwd").exists():
        listed = subprocess.run(["ps", "-o", "stat=,command=", "-p", str(pid)], capture_output=True, check=False)
        return not listed.stdout.startswith(b"Z") and b"postgres" in listed.stdout
    try:
        # A zombie has no working folder; a server's is its data folder.
        return Path(f"/proc/{pid}/cwd").samefile(data)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # Another user's process: leave it to PostgreSQL's own check.


def _disown_stale_pid(place: Place) -> None:
    """Let a killed server's lock file name a process that surely is none.

    Its pid may belong to another program by now, or to a zombie, and PostgreSQL would refuse to start. The rest of
    postmaster.pid stays: by its shared memory key PostgreSQL sees whether processes of the killed server still live.
    The socket lies in the data folder, so that its own lock adds nothing.
    """
    if _recorded_pid(place) is None:
        return
    ended = subprocess.Popen(["/bin/sh", "-c", ":"])
    ended.wait()
    lines = [str(ended.pid), *_pid_file(place)[1:]]
    server_settings.replace_file(place.data / "postmaster.pid", "\n".join(lines), place)
    for left in place.data.glob(".s.PGSQL.*"):
        left.unlink()


# ---------------------------------------------------------------- files


@contextmanager
def _system_errors(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Permanent(
            f"The files of the embedded PostgreSQL in {home} cannot be used: {error}.",
            "Check the folder's owner, its permissions and the free space, or set PGFERRY_HOME to another folder.",
        ) from error


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Hold the home's lock: one process at a time starts or stops its server."""
    import fcntl  # Not on Windows.

    folder = home.absolute() / "postgres"
    make_folder(folder)
    with open(folder / "lock", "wb", opener=opener) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _log_size(place: Place) -> int:
    return place.log.stat().st_size if place.log.exists() else 0


def _log_since(place: Place, position: int) -> str:
    with place.log.open("rb") as log:
        log.seek(position)
        return log.read().decode("utf-8", "replace")


def _tail(log: str, lines: int = 12) -> str:
    return "\n".join(log.strip().splitlines()[-lines:])


def _wait_for(work: Coroutine[object, object, _T]) -> _T:
    # In a thread of its own, since the caller may be inside a running event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m pgferry.postgres.embedded start|stop|status|psql --home DIR`; return the exit code."""
    parser = argparse.ArgumentParser(prog="pgferry.postgres.embedded", description="The embedded PostgreSQL server.")
    parser.add_argument("command", choices=("start", "stop", "status", "psql"))
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("PGFERRY_HOME", ".pgferry")))
    given = parser.parse_args(arguments)
    try:
        answer = _obey(given.command, given.home)
    except FerryError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(answer or "not running")
    return 0 if answer or given.command == "stop" else NOT_RUNNING


def _obey(command: str, home: Path) -> str:
    if command == "stop":
        return "stopped" if stop(home) else ""
    server = start(home) if command == "start" else running(home)
    if server is None:
        return ""
    where = f"running: pid {server.pid}, 127.0.0.1:{server.port}, {server.data}"
    return server.psql() if command == "psql" else where


if __name__ == "__main__":
    sys.exit(main())
