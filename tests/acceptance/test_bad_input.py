"""Whatever is wrong with the input: one sentence, the right exit code, no password, and nothing changed."""

from __future__ import annotations

import hashlib
import random
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from flows.cli import app
from pgferry.quoting import quote
from tests.acceptance.moving import alembic_project, ask, environment, migrate

PASSWORD = "p@ss'w%rd/ä"

SCHEMA = (
    "CREATE TABLE people (id integer PRIMARY KEY, name text)",
    "CREATE TABLE visits (person integer, at timestamp)",
)

SOURCE = """
    CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE visits (person INTEGER, at DATETIME);
    INSERT INTO people VALUES (1, 'a'), (2, 'b');
    INSERT INTO visits VALUES (1, '2024-01-01');
"""

EVERYTHING = """
    SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
     WHERE nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema') AND relkind IN ('r', 'i', 'S')
    UNION ALL SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1
"""


def fill(path: Path, script: str = SOURCE) -> Path:
    with closing(sqlite3.connect(path)) as file:
        file.executescript(script)
    return path


@dataclass(frozen=True)
class Said:
    """How the command ended."""

    code: int
    out: str
    err: str


def assert_one_sentence(said: Said, code: int, *words: str) -> None:
    """Hold the answer to the rules: an exit code, one error line with these words, no traceback, no password."""
    lines = [line for line in said.err.splitlines() if line.startswith("Error: ")]
    assert said.code == code, said
    assert len(lines) == 1, said
    assert said.err.splitlines()[-1] == lines[0], "something was said after the error"
    for word in words:
        assert word in lines[0]
    assert said.out == ""
    assert "Traceback" not in said.err
    for secret in (PASSWORD, "p%40ss", "p@ss"):
        assert secret not in said.err


# ---------------------------------------------------------------- seen before anything starts


@pytest.fixture
def run(tmp_path: Path, database_url: URL, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Call the command in this process, on an empty database; it must not come as far as Prefect."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGFERRY_TARGET", database_url.render_as_string(hide_password=False))
    monkeypatch.setenv("PGFERRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PGFERRY_ALEMBIC_CONFIG", str(alembic_project(tmp_path / "project", *SCHEMA)))
    monkeypatch.setattr("flows.cli.choose_prefect", lambda *_, **__: pytest.fail("it came as far as Prefect"))

    def call(*arguments: str | Path) -> Said:
        result = CliRunner().invoke(app, ["migrate", *map(str, arguments)])
        return Said(result.exit_code, result.stdout, result.stderr)

    return call


def test_a_missing_file(run: Callable[..., Said]) -> None:
    assert_one_sentence(run("--source", "none.db"), 2, "There is no file none.db")


def test_a_directory(run: Callable[..., Said], tmp_path: Path) -> None:
    assert_one_sentence(run("--source", tmp_path), 2, str(tmp_path), "is a directory")


def test_no_source_at_all(run: Callable[..., Said]) -> None:
    assert_one_sentence(run(), 2, "No source is named", "--source")


@pytest.mark.parametrize("content", [b"hello, I am a text\n" * 50, b"x", random.Random(1).randbytes(8192)],
                         ids=["text", "one byte", "encrypted"])  # fmt: skip
def test_what_is_no_database(content: bytes, run: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "app.db").write_bytes(content)
    assert_one_sentence(run("--source", "app.db"), 2, "app.db is no SQLite database, or is encrypted")


def test_a_database_whose_pages_are_encrypted_but_not_its_first_bytes(run: Callable[..., Said], tmp_path: Path) -> None:
    """Some encryptions leave the header readable."""
    file = fill(tmp_path / "app.db")
    content = file.read_bytes()
    file.write_bytes(content[:100] + random.Random(2).randbytes(len(content) - 100))
    said = run("--source", "app.db")
    assert_one_sentence(said, said.code, "app.db")
    assert said.code in (1, 2)


@pytest.mark.parametrize("kept", [0.5, 0.99, 60 / 12288])
def test_a_truncated_file(kept: float, run: Callable[..., Said], tmp_path: Path) -> None:
    file = fill(tmp_path / "app.db")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    assert_one_sentence(run("--source", "app.db"), 1, "app.db is truncated")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def test_a_locked_source(run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.command.LOCK_SECONDS", 3.0)
    file = fill(tmp_path / "app.db")
    began = time.monotonic()
    with locked(file):
        said = run("--source", "app.db")
    assert_one_sentence(said, 1, "app.db is locked by another process")
    assert 3 < time.monotonic() - began < 30


def test_an_unknown_key_of_the_configuration(run: Callable[..., Said], tmp_path: Path) -> None:
    fill(tmp_path / "app.db")
    (tmp_path / "pgferry.toml").write_text("[tables.people]\nexclud = true\n")
    assert_one_sentence(run("--source", "app.db"), 2, "pgferry.toml", "tables.people.exclud")


def test_a_configuration_that_is_no_toml(run: Callable[..., Said], tmp_path: Path) -> None:
    fill(tmp_path / "app.db")
    (tmp_path / "rules.toml").write_text("[tables.people\n")
    assert_one_sentence(run("--source", "app.db", "--config", "rules.toml"), 2, "rules.toml is no TOML")


def test_a_configuration_that_is_not_there(run: Callable[..., Said], tmp_path: Path) -> None:
    fill(tmp_path / "app.db")
    assert_one_sentence(run("--source", "app.db", "--config", "none.toml"), 2, "no configuration file none.toml")


def test_a_setting_that_is_wrong(run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "app.db")
    monkeypatch.setenv("PGFERRY_CHUNK_ROWS", "many")
    assert_one_sentence(run("--source", "app.db"), 2, "chunk_rows")


def test_an_alembic_configuration_that_is_not_there(
    run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "app.db")
    monkeypatch.setenv("PGFERRY_ALEMBIC_CONFIG", "none.ini")
    assert_one_sentence(run("--source", "app.db"), 2, "none.ini", "PGFERRY_ALEMBIC_CONFIG")


def test_a_target_of_another_kind(run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "app.db")
    monkeypatch.setenv("PGFERRY_TARGET", f"mysql://me:{PASSWORD}@localhost/app")
    assert_one_sentence(run("--source", "app.db"), 2, "not PostgreSQL")


def test_a_server_that_does_not_answer(
    run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: URL
) -> None:
    fill(tmp_path / "app.db")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = database_url.set(host="127.0.0.1", port=taken.getsockname()[1], password=PASSWORD)
        monkeypatch.setenv("PGFERRY_TARGET", url.render_as_string(hide_password=False))
        assert_one_sentence(run("--source", "app.db"), 1, f"127.0.0.1:{url.port}")


def test_a_host_that_does_not_exist(
    run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: URL
) -> None:
    fill(tmp_path / "app.db")
    url = database_url.set(host="no-such-host.invalid", password=PASSWORD)
    monkeypatch.setenv("PGFERRY_TARGET", url.render_as_string(hide_password=False))
    assert_one_sentence(run("--source", "app.db"), 1, "no-such-host.invalid")


def test_a_wrong_password(
    run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: URL
) -> None:
    fill(tmp_path / "app.db")
    url = database_url.set(password=PASSWORD)
    monkeypatch.setenv("PGFERRY_TARGET", url.render_as_string(hide_password=False))
    assert_one_sentence(run("--source", "app.db"), 1, "password", str(database_url.username))


def test_a_database_that_does_not_exist(
    run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: URL
) -> None:
    fill(tmp_path / "app.db")
    url = database_url.set(database="no_such_database")
    monkeypatch.setenv("PGFERRY_TARGET", url.render_as_string(hide_password=False))
    assert_one_sentence(run("--source", "app.db"), 1, "no_such_database")


def test_an_option_that_does_not_exist(run: Callable[..., Said]) -> None:
    said = run("--sauce", "app.db")
    assert (said.code, said.out) == (2, "")
    assert "--sauce" in said.err


# ---------------------------------------------------------------- seen by the flow


@dataclass(frozen=True)
class Place:
    """A source, a target and a home for a real process."""

    folder: Path
    url: URL
    server: str

    def migrate(self, *statements: str, url: URL | None = None, source: Path | None = None) -> Said:
        config = alembic_project(self.folder / "project", *statements)
        env = environment(url or self.url, self.folder / "home", PREFECT_API_URL=self.server,
                          PGFERRY_ALEMBIC_CONFIG=str(config))  # fmt: skip
        named = source or fill(self.folder / "app.db")
        ended: CompletedProcess[str] = migrate("--source", named, "--json", env=env, cwd=self.folder)
        return Said(ended.returncode, ended.stdout, ended.stderr)

    def holds(self) -> list[str]:
        return [row[0] for row in ask(self.url, EVERYTHING)]

    def counts(self) -> int:
        return int(ask(self.url, "SELECT (SELECT count(*) FROM people) + (SELECT count(*) FROM visits)")[0][0])


@pytest.fixture
def place(tmp_path: Path, new_database: Callable[[], URL], prefect_server: str) -> Place:
    """A place of the test's own."""
    return Place(tmp_path, new_database(), prefect_server)


@pytest.fixture
def stranger(place: Place) -> Iterator[URL]:
    """The target's URL for a role that may connect and nothing else."""
    name = f"stranger_{place.url.database}"
    ask(place.url, f"CREATE ROLE {quote(name)} LOGIN PASSWORD $${PASSWORD}$$")
    try:
        yield place.url.set(username=name, password=PASSWORD)
    finally:
        ask(place.url, f"DROP OWNED BY {quote(name)}")
        ask(place.url, f"DROP ROLE {quote(name)}")


def test_a_role_that_may_not_create_in_the_database(place: Place, stranger: URL) -> None:
    before = place.holds()
    said = place.migrate(*SCHEMA, url=stranger)
    assert_one_sentence(said, 1, str(stranger.username), "GRANT CREATE ON DATABASE")
    assert place.holds() == before


def test_a_role_that_may_not_create_in_schema_public(place: Place, stranger: URL) -> None:
    ask(place.url, f"GRANT CREATE ON DATABASE {quote(str(place.url.database))} TO {quote(str(stranger.username))}")
    ask(place.url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # as it is since PostgreSQL 15
    said = place.migrate(*SCHEMA, url=stranger)
    assert_one_sentence(said, 1, "public")
    assert [name for name in place.holds() if name.startswith("public.")] == []


def test_a_target_without_a_needed_table_and_without_a_needed_column(place: Place) -> None:
    said = place.migrate("CREATE TABLE people (id integer PRIMARY KEY, nom text)", "CREATE TABLE visits (at timestamp)")
    assert_one_sentence(said, 2, "people.name", "visits.person")
    assert place.counts() == 0
    assert "public.people_pkey" in place.holds(), "its key must not be put aside for a move that does not begin"


def test_a_target_without_a_needed_table(place: Place) -> None:
    said = place.migrate("CREATE TABLE people (id integer PRIMARY KEY, name text)", "CREATE TABLE visit (a integer)")
    assert_one_sentence(said, 2, "table 'visits' has no table of that name")
    assert ask(place.url, "SELECT count(*) FROM people")[0][0] == 0


def test_a_column_of_the_target_that_nothing_fills(place: Place) -> None:
    said = place.migrate("CREATE TABLE people (id integer PRIMARY KEY, name text, x int NOT NULL)", SCHEMA[1])
    assert_one_sentence(said, 2, "people.x is NOT NULL")
    assert place.counts() == 0


def test_a_migration_that_fails(place: Place) -> None:
    said = place.migrate(*SCHEMA, "CREATE TABLE broken (a no_such_type)")
    assert_one_sentence(said, 1, "0001", "no_such_type")
    assert [name for name in place.holds() if name.startswith("public.people")] == []


def test_a_source_that_is_damaged_inside(place: Place) -> None:
    """Its first page is whole; a page of rows is not."""
    file = fill(place.folder / "app.db")
    with closing(sqlite3.connect(file)) as opened:
        opened.executemany("INSERT INTO people VALUES (?, ?)", [(number, "n" * 300) for number in range(3, 900)])
        opened.commit()
    content = bytearray(file.read_bytes())
    content[8 * 4096 : 9 * 4096] = random.Random(3).randbytes(4096)
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    said = place.migrate(*SCHEMA, source=file)
    assert_one_sentence(said, 1, "app", "damaged")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    assert ask(place.url, "SELECT status FROM pgferry.run")[0][0] == "running"
