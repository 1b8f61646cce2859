"""A change of the target's schema: the application's revisions run up, or down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows.futures import call
from flows.names import place
from pgferry.operate.dump import Dump
from pgferry.operate.schema_change import Standing, refuse_unconfirmed, refuse_untimely
from pgferry.postgres.lock import RunLock
from pgferry.progress import reporter
from pgferry.settings import load_settings
from tasks.ends import target_url
from tasks.live import refuse_nowhere
from tasks.schema_change import conclude, dump_target, look, run_revisions


def _name() -> str:
    revision = flow_run.parameters.get("revision") or "head"
    return f"{flow_run.flow_name} {revision}, {place(str(flow_run.parameters.get('target') or ''))}"


@flow(name="schema-upgrade", flow_run_name=_name)
def schema_upgrade(
    revision: str = "head",
    target: str = "",
    config: str = "",
    alembic_config: str = "",
    dump: bool = True,
    schema_only_dump: bool = False,
    after_switch: bool = False,
    lock_timeout: float = 0.0,
) -> dict[str, Any]:
    """Run the application's revisions on the target, up to the newest, with a dump from before where it holds rows.

    In dual-write the same change of SQLite and `dual-write --resume` follow; see docs/schema-changes.md.

    Args:
        revision: the revision to go up to; `head` is the newest, `+1` the next one.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        alembic_config: the Alembic configuration; empty for PGFERRY_ALEMBIC_CONFIG.
        dump: take a dump into PGFERRY_HOME/dumps first, where the target holds rows and a fitting pg_dump is found.
        schema_only_dump: leave the rows out of the dump.
        after_switch: go on although PostgreSQL is in front and SQLite is kept level, which a changed column would end.
        lock_timeout: seconds that a statement waits for a lock before the revision is given up and tried again; 0 is
            for ever. While it waits, everyone who comes after it waits too.

    Returns:
        The revisions before and after, the dump, what was found in the revisions, and what a person must do next.
    """
    reporter().run(str(flow_run.id))

    # 1. Where to, by which revisions.
    reporter().step("look at the schema")
    settings = load_settings(config=config or None)
    url, file = target_url(target), Path(alembic_config) if alembic_config else settings.alembic_config

    with RunLock(url, "schema-upgrade"):
        # 2. What waits, and whether it may be now.
        standing = call(look, target, file)
        if standing.waiting:
            refuse_untimely(standing, after_switch=after_switch)

        # 3. A dump, while all is as it was.
        kept, note = _dumped(target, standing, wanted=dump and bool(standing.waiting), schema_only=schema_only_dump)

        # 4. The revisions.
        reporter().step(f"alembic upgrade {revision}")
        state = call(run_revisions, target, file, revision, "upgrade", lock_timeout)

        # 5. What follows.
        return call(conclude, target, config, standing, state, kept, note, "upgrade").to_json()


@flow(name="schema-downgrade", flow_run_name=_name)
def schema_downgrade(
    revision: str = "-1",
    confirm: str = "",
    target: str = "",
    config: str = "",
    alembic_config: str = "",
    dump: bool = True,
    schema_only_dump: bool = False,
    after_switch: bool = False,
    lock_timeout: float = 0.0,
) -> dict[str, Any]:
    """Take back revisions of the target's schema, down to one; rows in what they made are gone, but for the dump.

    Args:
        revision: the revision to go down to; `-1` is the one before, `base` an empty schema.
        confirm: the name of the target's database, to confirm that this is meant; without it nothing is done.
        target: the name of the environment variable that holds the target's URL, or `secret/BLOCK`; empty for
            PGFERRY_TARGET, and without that the embedded server. Never a URL: parameters are kept in plain text.
        config: the file with rules for tables and columns; empty for pgferry.toml if it exists.
        alembic_config: the Alembic configuration; empty for PGFERRY_ALEMBIC_CONFIG.
        dump: take a dump into PGFERRY_HOME/dumps first, where the target holds rows and a fitting pg_dump is found.
        schema_only_dump: leave the rows out of the dump.
        after_switch: go on although PostgreSQL is in front and SQLite is kept level, which a changed column would end.
        lock_timeout: seconds that a statement waits for a lock before the revision is given up and tried again; 0 is
            for ever. While it waits, everyone who comes after it waits too.

    Returns:
        The revisions before and after, the dump, and what a person must do next.
    """
    reporter().run(str(flow_run.id))

    # 1. Where to, by which revisions; and the word of a person.
    reporter().step("look at the schema")
    settings = load_settings(config=config or None)
    refuse_nowhere(target, settings)
    url, file = target_url(target), Path(alembic_config) if alembic_config else settings.alembic_config
    refuse_unconfirmed(url, confirm, revision)

    with RunLock(url, "schema-downgrade"):
        # 2. Whether it may be now.
        standing = call(look, target, file)
        refuse_untimely(standing, after_switch=after_switch)

        # 3. A dump, while all is as it was.
        kept, note = _dumped(target, standing, wanted=dump and bool(standing.applied), schema_only=schema_only_dump)

        # 4. The revisions.
        reporter().step(f"alembic downgrade {revision}")
        state = call(run_revisions, target, file, revision, "downgrade", lock_timeout)

        # 5. What follows.
        return call(conclude, target, config, standing, state, kept, note, "downgrade").to_json()


def _dumped(target: str, standing: Standing, *, wanted: bool, schema_only: bool) -> tuple[Dump | None, str]:
    if not wanted:
        get_run_logger().info("No dump: %s.", "nothing is changed, or none is wanted")
        return None, ""
    if not standing.rows:
        get_run_logger().info("No dump: no table holds a row.")
        return None, ""
    reporter().step("dump")
    return call(dump_target, target, standing, schema_only)
