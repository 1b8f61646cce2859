"""The fence around the target: writes to the paired tables fail with a clear error, reads go on.

Statement triggers raise before anything is written, by any way of writing (COPY, MERGE, TRUNCATE, a cascade). It keeps
applications out that know nothing of the move; it is no protection against a session that means to pass.
"""

from __future__ import annotations

from pgferry.live.model import Live
from pgferry.postgres.capture import SQL
from pgferry.postgres.handle import Connection
from pgferry.postgres.patience import patiently
from pgferry.quoting import literal, qualified

TRIGGER = "_pgferry_fence"

PASS = "SET pgferry.pass = on"
"""What lets a session write in spite of the fence."""

_LOCK = "SELECT pg_advisory_xact_lock(7164250413004)"

_SHUT = """
CREATE OR REPLACE FUNCTION pgferry.fence() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_catalog.current_setting('pgferry.pass', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'pgferry: %', TG_ARGV[0] USING ERRCODE = 'read_only_sql_transaction', TABLE = TG_TABLE_NAME,
        SCHEMA = TG_TABLE_SCHEMA;
END $$
"""

_OPEN = """
CREATE OR REPLACE FUNCTION pgferry.fence() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'
"""

_FUNCTION = "SELECT prosrc FROM pg_catalog.pg_proc WHERE oid = to_regprocedure('pgferry.fence()')"


async def fence(conn: Connection, live: Live, message: str) -> None:
    """Make writes to every paired table, and to its partitions, raise `pgferry: <message>` (SQLSTATE 25006).

    Returns once no transaction is open that has written to one of them, so everything that was written before is
    there to be read. Idempotent; the last message holds. A session that did `PASS` writes on. One transaction a table:
    when it raises Transient, because a table stays locked, the tables before it are fenced; `unfence` frees them.
    Not inside a transaction, which would hold the locks of one table while it waits for the next.
    """
    _require_no_transaction(conn, "fence")
    await _replace(conn, _SHUT)
    for relation in await _relations(conn, live):
        await _fence(conn, relation, message)


async def lift(conn: Connection) -> None:
    """Let everyone write again, at once and without a lock on any table; `unfence` then removes what is left."""
    if await conn.fetchval(_FUNCTION) is not None:
        await _replace(conn, _OPEN)


async def unfence(conn: Connection, live: Live | None = None) -> None:
    """Let everyone write again, at once; then drop the triggers, on whichever table there are. Idempotent.

    They are found by their name, so it may be called without `live`, whatever has become of the schemas. Raises
    Transient when a trigger cannot be dropped because its table stays locked, by a reader, too. The fence is open all
    the same, and the next call drops the rest.
    """
    _require_no_transaction(conn, "unfence")
    if await conn.fetchval(_FUNCTION) is None:
        return
    await lift(conn)
    for row in await conn.fetch(SQL["triggers"], [TRIGGER]):
        await _unfence(conn, row["table"])
    await conn.execute("DROP FUNCTION IF EXISTS pgferry.fence()")


async def is_fenced(conn: Connection) -> bool:
    """Say whether the fence is shut around any table."""
    body = await conn.fetchval(_FUNCTION)
    return body is not None and "RAISE" in body and bool(await conn.fetch(SQL["triggers"], [TRIGGER]))


async def _replace(conn: Connection, statement: str) -> None:
    async with conn.transaction():
        await conn.execute(_LOCK)  # else two sessions that do this at once fail with "tuple concurrently updated"
        await conn.execute(statement)


async def _relations(conn: Connection, live: Live) -> list[str]:
    targets = [qualified(table.pair.target.schema, table.pair.target.name) for table in live.tables]
    return [row["name"] for target in targets for row in await conn.fetch(SQL["relations"], target)]


async def _fence(conn: Connection, relation: str, message: str) -> None:
    async def work() -> None:
        # The lock waits for transactions that have written to the table, whether the trigger is there or not.
        await conn.execute(f"LOCK TABLE ONLY {relation} IN SHARE ROW EXCLUSIVE MODE")
        await conn.execute(
            f"CREATE OR REPLACE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {relation}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION pgferry.fence({literal(message)})"
        )
        await conn.execute(f"ALTER TABLE {relation} ENABLE ALWAYS TRIGGER {TRIGGER}")

    await patiently(conn, work, relation)


async def _unfence(conn: Connection, relation: str) -> None:
    async def work() -> None:
        await conn.execute(f"DROP TRIGGER IF EXISTS {TRIGGER} ON {relation}")

    await patiently(conn, work, relation)


def _require_no_transaction(conn: Connection, what: str) -> None:
    if conn.is_in_transaction():
        raise RuntimeError(f"{what} must not be called inside a transaction")
