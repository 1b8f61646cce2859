"""The floor of the contest: ready-made binary files by `\\copy` into bare tables, then keys and indexes, all by psql.

Nothing is read from SQLite, converted, checked or compared, and there are no foreign keys: what the server alone needs.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL

from pgferry.postgres.connection import connection
from pgferry.quoting import literal, quote

_ADD_KEYS = """
SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(made.oid))
  FROM pg_constraint AS made JOIN pg_class ON pg_class.oid = conrelid
 WHERE contype IN ('p', 'u') AND relname = ANY ($1) AND relnamespace = 'public'::regnamespace
 ORDER BY relname, contype, conname
"""

_CREATE_INDEXES = """
SELECT pg_get_indexdef(indexrelid)
  FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
 WHERE relname = ANY ($1) AND relnamespace = 'public'::regnamespace
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u', 'x'))
 ORDER BY relname, indexrelid::regclass::text
"""

_DROP_CONSTRAINTS = """
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
  FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
 WHERE contype IN ('f', 'p', 'u') AND relname = ANY ($1) AND relnamespace = 'public'::regnamespace
 ORDER BY contype = 'f' DESC
"""

_DROP_INDEXES = """
SELECT format('DROP INDEX %s', indexrelid::regclass)
  FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
 WHERE relname = ANY ($1) AND relnamespace = 'public'::regnamespace
"""

_MOMENT = "SELECT extract(epoch FROM clock_timestamp()) AS {} \\gset"
_STEPS = (
    "SELECT json_build_object('steps', json_build_object('rows', :copied - :began, 'indexes', :built - :copied));\n"
)

QUIETLY = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
"""Options of psql that make its work depend on nothing of the person's own, and end at the first error."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What psql is to do: the files by table, then the statements that build keys and indexes."""

    files: Mapping[str, Path] = field(default_factory=dict)
    builds: Sequence[str] = ()

    def script(self, memory: str) -> str:
        """Return a script for psql: the rows in one transaction, keys and indexes in another; it prints its steps."""
        copies = [
            f"\\copy {quote(table)} from {literal(str(file))} (format binary)" for table, file in self.files.items()
        ]
        builds = [f"{statement};" for statement in self.builds]
        return "\n".join(
            [
                f"SET maintenance_work_mem = {literal(memory)};",
                *(_MOMENT.format("began"), "BEGIN;", *copies, "COMMIT;"),
                *(_MOMENT.format("copied"), "BEGIN;", *builds, "COMMIT;"),
                *(_MOMENT.format("built"), _STEPS),
            ]
        )


async def read_builds(url: URL, tables: Sequence[str]) -> list[str]:
    """Return the statements that build the keys and indexes of tables that have them."""
    async with connection(url) as server:
        found = [*await server.fetch(_ADD_KEYS, tables), *await server.fetch(_CREATE_INDEXES, tables)]
    return [statement for (statement,) in found]


async def make_bare(url: URL, tables: Sequence[str]) -> None:
    """Drop foreign keys, keys and indexes of the tables."""
    async with connection(url) as server:
        # Indexes of constraints are gone by the time that the others are listed.
        for listed in (_DROP_CONSTRAINTS, _DROP_INDEXES):
            for (statement,) in await server.fetch(listed, tables):
                await server.execute(statement)


def write_files(psql: Path, url: URL, tables: Iterable[str], folder: Path) -> dict[str, Path]:
    """Write each table of a finished move, in the order of its rows on disk, to a binary file in the folder."""
    files = {table: folder / f"{number}.copy" for number, table in enumerate(tables)}
    copies = [f"\\copy {quote(table)} to {literal(str(file))} (format binary)" for table, file in files.items()]
    command = [str(psql), *QUIETLY]
    subprocess.run(command, input="\n".join(copies), text=True, env=libpq(url), check=True, stdout=subprocess.DEVNULL)
    return files


def find_psql(beside: Path) -> Path | None:
    """Return psql: that of the server's own installation, or of PATH, or None."""
    if (beside / "psql").is_file():
        return beside / "psql"
    found = shutil.which("psql")
    return Path(found) if found else None


def libpq(url: URL) -> dict[str, str]:
    """Return the environment that leads libpq to a database, with the password."""
    return {
        "PGHOST": str(url.host),
        "PGPORT": str(url.port),
        "PGUSER": str(url.username),
        "PGPASSWORD": str(url.password),
        "PGDATABASE": str(url.database),
    }
