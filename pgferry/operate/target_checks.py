"""What a preflight looks at in the target database: rights, tables, triggers, keys."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pgferry.errors import FerryError, UsageError
from pgferry.live.model import HIDDEN
from pgferry.live.pairs import target_schemas
from pgferry.model import SourceTable, TablePair
from pgferry.operate.check import Check, failed_check, listed, passed, warned
from pgferry.pairing import pair_tables
from pgferry.postgres.catalog import have_rows, read_tables
from pgferry.postgres.connection import Connection, connection
from pgferry.postgres.statements import statements
from pgferry.quoting import quote
from pgferry.settings import Rules, Settings, parse_target, safe_url
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.collations import indexed_by_own
from pgferry.sqlite.connect import open_read_only

SQL = statements("preflight")


@dataclass(frozen=True, slots=True)
class Paired:
    """How the source's tables and the target's fit."""

    pairs: tuple[TablePair, ...] = ()
    problem: str = ""
    """What does not fit; empty when all does."""
    empty: bool = False
    """Whether the target has no tables yet."""

    @property
    def oids(self) -> list[int]:
        """The paired tables of the target."""
        return [pair.target.oid for pair in self.pairs]


async def pair(conn: Connection, source: Path, rules: Rules) -> Paired:
    """Pair the tables of the live file with the target's; raises as `open_read_only`, and sqlite3.Error."""
    with closing(open_read_only(source, stand_ins=True)) as reader:
        catalog = read_catalog(reader)
    targets = await read_tables(conn, await target_schemas(conn, rules))
    if not targets:
        return Paired(empty=True)
    try:
        return Paired(pair_tables(catalog, targets, rules).pairs)
    except UsageError as error:
        problems = error.details.get("problems")
        return Paired(problem=listed(problems) if isinstance(problems, tuple) else error.message)


# ---------------------------------------------------------------- rights


async def check_ledger_right(conn: Connection) -> Check:
    """Look whether the role may make or use schema pgferry, where the control state lives."""
    name = "right to schema pgferry"
    if await conn.fetchval(SQL["may_make_ledger"]):
        return passed(name, "it is this role's, or may be made by it")
    row = await conn.fetchrow(SQL["server"])
    assert row is not None
    return failed_check(
        name,
        f"the role {row['role']} may not make it",
        f"Let the database's owner run: GRANT CREATE ON DATABASE {quote(row['database'])} TO {quote(row['role'])};",
    )


async def check_schema_right(conn: Connection, rules: Rules) -> Check:
    """Look whether the role may make tables where the migrations make them."""
    name, schemas = "right to make tables", await target_schemas(conn, rules)
    rows = await conn.fetch(SQL["may_make_tables"], schemas)
    refused = [row["name"] for row in rows if not row["allowed"]]
    if not rows or refused:
        where = f"not in schema {listed(refused)}" if refused else "no schema is in the search path"
        role = quote(await conn.fetchval("SELECT current_user"))
        schema = quote(refused[0]) if refused else "public"
        return failed_check(
            name,
            where,
            f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}; PostgreSQL 15 and newer give it to nobody by default.",
        )
    return passed(name, f"in schema {listed([row['name'] for row in rows])}")


async def check_table_rights(conn: Connection, paired: Paired) -> Check:
    """Look whether the role may alter the tables, empty them and give them triggers, as only their owner may."""
    name = "right to alter tables"
    rows = await conn.fetch(SQL["foreign_tables"], paired.oids)
    if not rows:
        return passed(name, f"{len(paired.pairs)} tables")
    role, owner = quote(await conn.fetchval("SELECT current_user")), quote(rows[0]["owner"])
    names = [f"{row['name']} (of {row['owner']})" for row in rows]
    return failed_check(
        name,
        f"not {listed(names)}",
        f"GRANT {owner} TO {role}; indexes, foreign keys and triggers can be changed by a table's owner only.",
    )


async def check_application_url(conn: Connection, paired: Paired, settings: Settings) -> Check:
    """Connect by the URL that the application gets at the switch: the same database, and the right to its rows."""
    name = "the application's URL"
    if settings.application_url is None:
        return passed(name, "the target's own; PGFERRY_APPLICATION_URL can name another")
    url = parse_target(settings.application_url.get_secret_value())
    try:
        async with connection(url, timeout=settings.connect_timeout) as application:
            same = await application.fetchval(SQL["identity"]) == await conn.fetchval(SQL["identity"])
            refused = [row["name"] for row in await application.fetch(SQL["unreadable_tables"], paired.oids)]
    except FerryError as error:
        return failed_check(name, error.message, error.action)
    if not same:
        return failed_check(
            name, f"{safe_url(url)} is another database than the target", "Correct PGFERRY_APPLICATION_URL."
        )
    if refused:
        advice = f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {quote(url.username or '')};"
        return failed_check(name, f"{url.username} may not read and write {listed(refused)}", advice)
    return passed(name, f"{safe_url(url)}: connects to the target, may read and write")


# ---------------------------------------------------------------- tables


def check_pairs(paired: Paired) -> Check:
    """Look whether every table and column has its partner."""
    name = "tables"
    if paired.empty:
        return warned(
            name, "the target has none yet", "Run this again after `alembic upgrade head`; the move does that, too."
        )
    if paired.problem:
        advice = "Add what is missing by a migration, or say `rename` or `exclude` in pgferry.toml."
        return failed_check(name, paired.problem, advice)
    return passed(name, f"{len(paired.pairs)} tables, every column has its partner")


async def check_rows(conn: Connection, paired: Paired, source: Path) -> Check:
    """Look for rows that are in the target although this source was never moved there."""
    name = "rows in the target"
    if await conn.fetchval(SQL["ledger_readable"]) and await conn.fetchval(SQL["has_run"], str(source.resolve())):
        return passed(name, "those of this source's move")
    targets = [pair.target for pair in paired.pairs]
    filled = zip(targets, await have_rows(conn, targets), strict=True)
    full = [target.name for target, has_rows in filled if has_rows]
    if not full:
        return passed(name, "none")
    return failed_check(
        name,
        f"rows that were not moved from here, in {listed(full)}",
        "Empty these tables, exclude them in pgferry.toml, or choose another database.",
    )


async def check_triggers(conn: Connection, paired: Paired) -> Check:
    """Look for triggers of the application that would fire for every row that the load and the sync carry."""
    name = "triggers in the target"
    names = [row["name"] for row in await conn.fetch(SQL["triggers"], paired.oids)]
    if not names:
        return passed(name, "none that would fire for carried rows")
    return warned(
        name,
        listed(names),
        "They fire for each row that is carried, and what they change is found as a difference: ALTER TABLE … DISABLE"
        " TRIGGER until the switch.",
    )


def check_keys(paired: Paired) -> Check:
    """Look for tables whose rows the target's key does not find again: they get a hidden column until cleanup."""
    name = "keys"
    without = [pair for pair in paired.pairs if not _has_common_key(pair)]
    lost = [pair.source.name for pair in without if pair.source.rowid_name is None]
    if lost:
        return failed_check(
            name,
            f"no common key of {listed(lost)}, which have no rowid either",
            "Give the target tables the same primary key by a migration, or exclude them in pgferry.toml.",
        )
    if without:
        return warned(
            name,
            f"no common key of {listed([pair.source.name for pair in without])}",
            f"Dual-write adds a column {HIDDEN} to these until cleanup: the application must not mind, or give them a"
            " primary key by a migration. `migrate` alone needs none.",
        )
    return passed(name, f"{len(paired.pairs)} tables have the same primary key on both sides")


def check_collations(paired: Paired) -> Check:
    """Look for keys and indexes by a collation of the application's own: the sync back could not write their tables."""
    name = "collations"
    own = [pair.source.name for pair in paired.pairs if indexed_by_own(pair.source)]
    if not own:
        return passed(name, "no key or index is by a collation of the application's own")
    return warned(
        name,
        f"a key or index by a collation of the application's own: {listed(own)}",
        "`migrate` moves these tables. Dual-write and --cut-over refuse them: nobody else can write to them in SQLite."
        " Drop such indexes, or exclude the tables in pgferry.toml.",
    )


def _has_common_key(pair: TablePair) -> bool:
    partners = {column.target.name: column.source.name for column in pair.columns}
    found = {partners.get(name) for name in pair.target.key}
    return bool(found) and found == set(_source_key(pair.source))


def _source_key(table: SourceTable) -> Sequence[str]:
    if table.key:
        return table.key
    return (table.rowid_column,) if table.rowid_column else ()
