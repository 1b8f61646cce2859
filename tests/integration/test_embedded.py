"""The embedded server, started for real: as root and as a normal user, twice, after a kill, in awkward places."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import Permanent
from pgferry.postgres import binaries, embedded
from pgferry.postgres.connection import connection
from pgferry.postgres.embedded import EmbeddedServer

PROJECT = Path(__file__).parents[2]
SYSTEM_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
IS_ROOT = os.geteuid() == 0

as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can drop to another account")
MakeHome = Callable[[Path], Path]


@pytest.fixture
def adopt() -> Iterator[MakeHome]:
    """Takes a home whose server is stopped, and whose files are removed, at the end of the test."""
    homes: list[Path] = []

    def remember(home: Path) -> Path:
        homes.append(home)
        return home

    yield remember
    for home in homes:
        embedded.stop(home)
        pointer = home / "postgres" / "store"
        if pointer.exists():
            shutil.rmtree(pointer.read_text().strip())
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def home(adopt: MakeHome) -> Path:
    folder = Path(mkdtemp(prefix="pgferry-test-"))
    folder.chmod(0o755)
    return adopt(folder)


@pytest.fixture(scope="module")
def plain() -> Iterator[EmbeddedServer]:
    """A server started without settings, for the tests that only look at it."""
    folder = Path(mkdtemp(prefix="pgferry-test-"))
    folder.chmod(0o755)
    try:
        yield embedded.start(folder)
    finally:
        embedded.stop(folder)
        shutil.rmtree(folder)


def ask(server: EmbeddedServer, query: str, database: str = "postgres") -> object:
    async def fetch() -> object:
        async with connection(server.url(database)) as opened:
            return await opened.fetchval(query)

    return asyncio.run(fetch())


def command(home: Path, word: str) -> list[str]:
    return [sys.executable, "-m", "pgferry.postgres.embedded", word, "--home", str(home)]


def test_a_server_starts_once_and_keeps_its_data(home: Path) -> None:
    assert embedded.running(home) is None
    assert embedded.stop(home) is False
    first = embedded.start(home)
    ask(first, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert embedded.start(home) == first
    assert embedded.running(home) == first

    assert embedded.stop(home) is True
    assert embedded.running(home) is None
    assert embedded.stop(home) is False

    second = embedded.start(home)
    assert second.pid != first.pid
    assert second.port == first.port
    assert second.password == first.password
    assert ask(second, "SELECT answer FROM kept") == 42


def test_the_cluster_is_utf8_sorts_by_bytes_and_speaks_english(plain: EmbeddedServer) -> None:
    assert ask(plain, "SHOW server_version").startswith("18.") or os.environ.get("PG_BIN_DIR")
    assert ask(plain, "SHOW server_encoding") == "UTF8"
    assert ask(plain, "SELECT 'Z' < 'a'") is True
    assert ask(plain, "SELECT upper('é')") == "É" or os.environ.get("PG_BIN_DIR")
    assert ask(plain, "SHOW lc_messages") == "C"
    assert ask(plain, "SHOW data_checksums") == "on"


def test_only_the_password_lets_in(plain: EmbeddedServer) -> None:
    assert plain.password not in repr(plain)
    assert stat.S_IMODE(plain.password_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(plain.data.stat().st_mode) == 0o700
    for host in ("127.0.0.1", str(plain.socket)):
        with pytest.raises(asyncpg.InvalidPasswordError):
            asyncio.run(asyncpg.connect(host=host, port=plain.port, user=plain.user, password="x", database="postgres"))


def test_psql_opens_a_database_without_showing_the_password(plain: EmbeddedServer) -> None:
    shown = plain.psql("postgres")
    assert plain.password not in shown
    done = subprocess.run(f"{shown} -Atc 'SELECT 6 * 7'", shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"


async def test_it_can_be_asked_inside_a_running_event_loop(plain: EmbeddedServer) -> None:
    home = plain.password_file.parents[1]
    assert embedded.start(home) == plain
    assert embedded.running(home) == plain
    url = await embedded.create_database(plain, 'odd "name"')
    assert await embedded.create_database(plain, 'odd "name"') == url
    async with connection(url) as opened:
        assert await opened.fetchval("SELECT current_database()") == 'odd "name"'


def test_a_killed_server_starts_again(home: Path) -> None:
    killed = embedded.start(home)
    ask(killed, "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(killed.pid, signal.SIGKILL)
    wait_until(lambda: embedded.running(home) is None)
    assert (killed.data / "postmaster.pid").exists()
    server = embedded.start(home)
    assert server.pid != killed.pid
    assert ask(server, "SELECT answer FROM kept") == 42


def test_a_stale_pid_that_belongs_to_another_program_does_not_matter(home: Path) -> None:
    killed = embedded.start(home)
    os.kill(killed.pid, signal.SIGKILL)
    wait_until(lambda: embedded.running(home) is None)
    recorded = killed.data / "postmaster.pid"
    owner = recorded.stat().st_uid
    other = subprocess.Popen(["sleep", "60"], user=owner if IS_ROOT else None)
    try:
        recorded.write_text("\n".join([str(other.pid), *recorded.read_text().split("\n")[1:]]))
        assert embedded.running(home) is None
        assert embedded.stop(home) is False
        assert ask(embedded.start(home), "SELECT 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_starts_at_the_same_time_make_one_server(home: Path) -> None:
    starts = [subprocess.Popen(command(home, "start"), stdout=subprocess.PIPE, cwd=PROJECT) for _ in range(3)]
    answers = {start.communicate(timeout=300)[0] for start in starts}
    assert [start.returncode for start in starts] == [0, 0, 0]
    server = embedded.running(home)
    assert server is not None
    assert answers == {f"running: pid {server.pid}, 127.0.0.1:{server.port}, {server.data}\n".encode()}


def test_a_killed_initdb_leaves_no_half_made_data_folder(home: Path) -> None:
    start = subprocess.Popen(command(home, "start"), start_new_session=True, cwd=PROJECT)
    wait_until(lambda: any((home / "postgres").glob("new-*/data/base")))
    os.killpg(start.pid, signal.SIGKILL)
    start.wait()
    assert not (home / "postgres" / "data").exists()
    assert ask(embedded.start(home), "SELECT 1") == 1
    assert not list((home / "postgres").glob("new-*"))


def test_the_command_line_ends_in_a_pipe_and_the_server_lives_on(home: Path) -> None:
    piped = " ".join([*command(home, "start"), "2>&1", "|", "cat"])
    done = subprocess.run(piped, shell=True, capture_output=True, text=True, timeout=60, cwd=PROJECT, check=True)
    server = embedded.running(home)
    assert server is not None
    assert f"pid {server.pid}," in done.stdout
    assert os.getsid(server.pid) != os.getsid(0)

    def say(word: str) -> tuple[int, str]:
        said = subprocess.run(command(home, word), capture_output=True, text=True, cwd=PROJECT, check=False)
        return said.returncode, said.stdout.strip()

    assert say("status") == (0, done.stdout.strip())
    assert say("stop") == (0, "stopped")
    assert say("status") == (3, "not running")
    assert say("stop") == (0, "not running")


def test_settings_are_passed_kept_and_changed_by_a_restart(home: Path) -> None:
    awkward = "it's a \\ backslash"
    first = embedded.start(home, {"max_connections": "17", "cluster_name": awkward})
    assert ask(first, "SHOW max_connections") == "17"
    assert ask(first, "SHOW cluster_name") == awkward
    assert embedded.start(home, {"cluster_name": awkward}).pid == first.pid
    assert embedded.start(home).pid == first.pid

    second = embedded.start(home, {"max_wal_size": "2GB"})
    assert second.pid != first.pid
    assert ask(second, "SHOW max_connections") == "17"
    assert ask(second, "SHOW max_wal_size") == "2GB"


def test_a_wrong_setting_is_named_and_does_not_stay(home: Path) -> None:
    with pytest.raises(Permanent, match=r"unrecognized configuration parameter \"no_such_setting\""):
        embedded.start(home, {"no_such_setting": "1"})
    assert ask(embedded.start(home), "SELECT 1") == 1
    for name, value in {"port": "1", "a b": "1", "cluster_name": "x\nfsync = off"}.items():
        with pytest.raises(Permanent, match="cannot be a setting"):
            embedded.start(home, {name: value})


def test_a_port_can_be_asked_for(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Permanent, match=f"Port {port} of 127.0.0.1 is in use"):
            embedded.start(home, port=port)
    assert embedded.start(home, port=port).port == port
    embedded.stop(home)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert embedded.start(home).port != port


def test_a_folder_too_deep_for_a_socket_has_none(adopt: MakeHome) -> None:
    top = adopt(Path(mkdtemp(prefix="pgferry-test-")))
    top.chmod(0o755)
    deep = adopt(top / ("a folder with spaces, a 'quote' and ünicode " * 2).strip() / ("x" * 60))
    server = embedded.start(deep)
    assert server.socket is None
    assert server.data.is_relative_to(deep)
    assert ask(server, "SHOW unix_socket_directories") == ""


def test_a_short_folder_has_a_socket(plain: EmbeddedServer) -> None:
    assert plain.socket is not None
    where = {"host": str(plain.socket), "port": str(plain.port)}
    url = URL.create("postgresql+asyncpg", plain.user, plain.password, database="postgres", query=where)

    async def fetch() -> object:
        async with connection(url) as opened:
            return await opened.fetchval("SELECT inet_client_addr()")

    assert asyncio.run(fetch()) is None


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Permanent, match=r"file.* cannot be used: .*Not a directory"):
        embedded.start(tmp_path / "file" / "home")


# ---------------------------------------------------------------- whose server, whose binaries


@as_root
def test_root_runs_it_under_another_account(plain: EmbeddedServer) -> None:
    status = Path(f"/proc/{plain.pid}").stat()
    assert status.st_uid > 0
    assert plain.data.stat().st_uid == status.st_uid
    assert plain.data == plain.password_file.parents[1] / "postgres" / "data"
    groups = Path(f"/proc/{plain.pid}/status").read_text().split("Groups:")[1].split("\n")[0]
    assert "0" not in groups.split()


@as_root
def test_root_puts_the_data_elsewhere_when_the_account_cannot_reach_the_home(adopt: MakeHome, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    home = adopt(tmp_path / "home")
    server = embedded.start(home)
    assert not server.data.is_relative_to(home)
    assert (home / "postgres" / "server.log").stat().st_size > 0
    ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert embedded.stop(home)
    assert embedded.start(home).data == server.data
    assert ask(embedded.start(home), "SELECT answer FROM kept") == 42


def test_programs_that_cannot_be_run_where_they_are_get_copied(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a virtual environment below /root, and as some installers leave them: without execute bits."""
    monkeypatch.delenv("PG_BIN_DIR", raising=False)
    install = binaries.find_binaries().parent
    hidden = tmp_path / "site-packages"
    tmp_path.chmod(0o700)
    shutil.copytree(install, hidden / binaries.PACKAGE / install.name, ignore=shutil.ignore_patterns("*.a", "include"))
    shutil.copy(install.parent / "__init__.py", hidden / binaries.PACKAGE)
    shutil.copytree(install.parents[1] / f"{binaries.PACKAGE}.libs", hidden / f"{binaries.PACKAGE}.libs")
    for program in (hidden / binaries.PACKAGE / install.name / "bin").iterdir():
        program.chmod(0o644)
    monkeypatch.syspath_prepend(hidden)
    assert binaries.find_binaries().is_relative_to(hidden)

    server = embedded.start(home)
    assert server.bin_dir.is_relative_to(home)
    assert ask(server, "SELECT to_tsvector('english', 'running') @@ to_tsquery('english', 'run')") is True
    assert Path(f"/proc/{server.pid}/exe").resolve().is_relative_to(home) or sys.platform != "linux"


AS_NOBODY = """
import encodings.idna, fcntl, os, pwd, sys
from pgferry.postgres.embedded import find_binaries, main
find_binaries()  # All is imported before the drop: the interpreter may lie where nobody cannot go.
entry = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(entry.pw_gid)
os.setuid(entry.pw_uid)
sys.exit(main(sys.argv[1:]))
"""


@as_root
def test_a_normal_user_runs_it_too(home: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)

    def say(word: str) -> str:
        call = [sys.executable, "-c", AS_NOBODY, word, "--home", str(home)]
        return subprocess.run(call, cwd=PROJECT, capture_output=True, text=True, check=True).stdout

    started = say("start")
    server = embedded.running(home)  # Root finds the same server.
    assert server is not None
    assert f"pid {server.pid}," in started
    assert Path(f"/proc/{server.pid}").stat().st_uid == nobody.pw_uid
    assert {path.owner() for path in (home / "postgres").iterdir()} == {"nobody"}
    assert ask(server, "SELECT 1") == 1
    assert stat.S_IMODE(server.password_file.stat().st_mode) == 0o600
    assert say("start") == started
    assert say("stop") == "stopped\n"


@pytest.mark.skipif(not SYSTEM_POSTGRES, reason="there is no PostgreSQL of the system")
def test_pg_bin_dir_names_another_postgresql(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SYSTEM_POSTGRES[0].parent
    monkeypatch.setenv("PG_BIN_DIR", str(folder))
    server = embedded.start(home)
    assert server.bin_dir == folder
    version = binaries.major_version(folder)
    assert str(ask(server, "SHOW server_version")).startswith(str(version))
    monkeypatch.delenv("PG_BIN_DIR")
    assert embedded.running(home) == server
    assert embedded.stop(home)
    with pytest.raises(Permanent, match=f"not {version}.*PG_BIN_DIR"):
        embedded.start(home)


@pytest.mark.skipif(not SYSTEM_POSTGRES, reason="there is no PostgreSQL of the system")
def test_a_data_folder_of_another_version_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PG_BIN_DIR", raising=False)
    embedded.start(home)
    embedded.stop(home)
    folder = SYSTEM_POSTGRES[0].parent
    monkeypatch.setenv("PG_BIN_DIR", str(folder))
    with pytest.raises(Permanent, match=rf"made by PostgreSQL 18, and {folder} is PostgreSQL"):
        embedded.start(home)


def test_the_wheels_other_version_runs_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_BIN_DIR", str(binaries._wheel_binaries(16)))
    assert str(ask(embedded.start(home), "SHOW server_version")).startswith("16.")
    embedded.stop(home)
    monkeypatch.delenv("PG_BIN_DIR")
    assert str(ask(embedded.start(home), "SHOW server_version")).startswith("16.")


def test_a_missing_postgresql_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_BIN_DIR", str(tmp_path))
    with pytest.raises(Permanent, match=r"holds no PostgreSQL: postgres is missing\. Set PG_BIN_DIR"):
        embedded.find_binaries()
    monkeypatch.delenv("PG_BIN_DIR")
    with pytest.raises(Permanent, match="has no program pg_nothing"):
        embedded.binary("pg_nothing")
    monkeypatch.setattr(binaries, "WHEEL", "pgferry-no-such-wheel")
    with pytest.raises(Permanent, match=r"not installed, or has no build for this platform\..*set PG_BIN_DIR"):
        embedded.find_binaries()


def test_the_wheels_package_is_never_imported() -> None:
    code = (
        f"import sys, pgferry.postgres.embedded as e; e.find_binaries(); assert {binaries.PACKAGE!r} not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)
