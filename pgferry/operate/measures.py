"""What the monitor measures, part by part: numbers, tables for people, and judgements by the settings' thresholds.

Each part reads only, and lets the driver's errors pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgferry.chart import shown_bytes, shown_count
from pgferry.operate.lag import lag
from pgferry.operate.watched import Breach, Listing, Part, listing, without_literals
from pgferry.postgres.connection import Connection
from pgferry.postgres.metrics import Before, Metric
from pgferry.postgres.statements import statements
from pgferry.quoting import qualified
from pgferry.settings import Settings

SQL = statements("monitor")

SHOWN = 10
"""Rows of a listing, and tables whose size is kept."""

LARGE_TABLE = 10_000
"""Rows from which a table is judged: what is wrong with a smaller one is not felt."""

SCANS = 50
"""Scans of a whole table that are a pattern."""

BLOCKS = 10_000
"""Block reads since the look before (80 MB) from which the share of the cache says something."""

_OWN = "pgferry"
"""How the application name of pgferry's own sessions begins: they are shown, and not judged."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What every part of a look is given."""

    settings: Settings
    at: datetime
    max_connections: int
    before: Before


Measure = Callable[[Connection, Scene], Awaitable[Part]]


# ---------------------------------------------------------------- connections and the cache


async def _connections(connection: Connection, scene: Scene) -> Part:
    rows = await connection.fetch(SQL["connections"])
    used, limit = sum(row["connections"] for row in rows), scene.max_connections
    percent, allowed = 100.0 * used / limit, scene.settings.monitor_connections_percent
    breach = Breach(
        "connections",
        "",
        f"{used} of {limit} connections are in use ({percent:.0f} %)",
        f"{allowed:g} %",
        "monitor_connections_percent",
        "End idle clients, lower the pools of application and pgferry, or raise max_connections.",
        percent,
    )
    return Part(
        metrics=(
            *(Metric("connections", row["state"], row["connections"], "connections") for row in rows),
            Metric("connections_used", "", used, "connections"),
            Metric("connections_limit", "", limit, "connections"),
        ),
        listings=(listing("connections", f"Connections: {used} of {limit}", ("state", "connections"), _cells(rows)),),
        breaches=(breach,) if percent > allowed else (),
    )


async def _cache(connection: Connection, scene: Scene) -> Part:
    row = await connection.fetchrow(SQL["cache"])
    assert row is not None
    hit = _added(scene.before, "blocks_hit", row["blks_hit"])
    asked = hit + _added(scene.before, "blocks_read", row["blks_read"])
    percent = 100.0 * hit / asked if asked else None
    allowed = scene.settings.monitor_cache_hit_percent
    breaches: tuple[Breach, ...] = ()
    if percent is not None and asked >= BLOCKS and percent < allowed:
        breaches = (
            Breach(
                "cache-hit",
                "",
                f"{percent:.1f} % of {asked:,.0f} block reads were answered by the cache",
                f"no less than {allowed:g} %",
                "monitor_cache_hit_percent",
                "See which queries read much (top queries, missing indexes), or give shared_buffers more memory.",
                percent,
            ),
        )
    return Part(
        metrics=(
            Metric("blocks_hit", "", row["blks_hit"], "blocks"),
            Metric("blocks_read", "", row["blks_read"], "blocks"),
            *(() if percent is None else (Metric("cache_hit_percent", "", percent, "%"),)),
            Metric("deadlocks", "", row["deadlocks"], "deadlocks"),
            Metric("temporary_bytes", "", row["temp_bytes"], "bytes"),
            Metric("database_bytes", "", row["bytes"], "bytes"),
        ),
        breaches=breaches,
    )


def _added(before: Before, name: str, value: int) -> float:
    """Return what was added to a counter since the look before; all of it where that is not known, or began anew."""
    known = before.values.get((name, ""), 0.0)
    return value - known if value >= known else float(value)


# ---------------------------------------------------------------- what is at work


async def _active(connection: Connection, scene: Scene) -> Part:
    allowed = scene.settings.monitor_query_seconds
    rows = await connection.fetch(SQL["active"], allowed, SHOWN)
    shown = [
        (_session(row), round(row["seconds"], 1), row["waits_for"], without_literals(row["query"])) for row in rows
    ]
    judged = [row["seconds"] for row in rows if not _is_told_elsewhere(row)]
    breach = Breach(
        "long-query",
        "",
        f"Queries that are active for long: {len(judged)}, the longest for {max(judged, default=0.0):,.0f} s",
        f"{allowed:g} s",
        "monitor_query_seconds",
        "See what they wait for; EXPLAIN them, or end one: SELECT pg_cancel_backend(PID).",
        max(judged, default=0.0),
    )
    return Part(
        metrics=(
            Metric("long_queries", "", len(rows), "queries"),
            Metric("longest_query_seconds", "", max((row["seconds"] for row in rows), default=0.0), "s"),
        ),
        listings=_if_any(
            "active",
            f"Queries active for more than {allowed:g} s",
            ("session", "seconds", "waits for", "query"),
            shown,
        ),
        breaches=(breach,) if judged else (),
    )


def _is_told_elsewhere(row: Any) -> bool:
    """Say whether an active query is pgferry's own, which takes its time, or waits for a lock, which is judged so."""
    return str(row["application"]).startswith(_OWN) or str(row["waits_for"]).startswith("Lock:")


def _session(row: Any, prefix: str = "") -> str:
    """Return which session it is, by the columns that begin with `prefix`."""
    application = row[f"{prefix}application"]
    return f"pid {row[f'{prefix}pid']}, {row[f'{prefix}user'] or '?'}" + (f" ({application})" if application else "")


async def _waiting(connection: Connection, scene: Scene) -> Part:
    allowed = scene.settings.monitor_lock_seconds
    rows = await connection.fetch(SQL["waiting"], SHOWN)
    shown = [
        (
            _session(row),
            round(row["seconds"] or 0.0, 1),
            row["lock"],
            without_literals(row["query"] or ""),
            f"{_session(row, 'blocker_')}: {row['blocker_state'] or 'state not shown'}",
            without_literals(row["blocker_query"] or ""),
        )
        for row in rows
    ]
    longest = max((row["seconds"] or 0.0 for row in rows), default=0.0)
    sessions = len({row["pid"] for row in rows})
    breach = Breach(
        "lock-wait",
        "",
        f"Sessions that wait for another one's lock: {sessions}, the longest for {longest:,.0f} s",
        f"{allowed:g} s",
        "monitor_lock_seconds",
        "Let the session that holds the lock commit, or end it: SELECT pg_terminate_backend(PID).",
        longest,
    )
    return Part(
        metrics=(
            Metric("lock_waits", "", sessions, "sessions"),
            Metric("longest_lock_wait_seconds", "", longest, "s"),
        ),
        listings=_if_any(
            "locks",
            "Sessions that wait for another one's lock",
            ("session", "seconds", "lock", "query", "waits for", "its query"),
            shown,
        ),
        breaches=(breach,) if longest > allowed else (),
    )


async def _top_statements(connection: Connection, _: Scene) -> Part:
    view = await connection.fetchrow(SQL["statements_view"])
    if view is None:
        return Part(notes=(_NO_STATEMENTS,))
    total = "total_exec_time" if view["named_exec"] else "total_time"
    rows = await connection.fetch(
        f"SELECT queryid, sum(calls)::bigint AS calls, sum({total}) AS total,"
        f"       sum({total}) / greatest(sum(calls), 1) AS mean, sum(rows)::bigint AS rows, min(query) AS query"
        f"  FROM {qualified(view['schema'], 'pg_stat_statements')}"
        "  WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND queryid IS NOT NULL"
        "  GROUP BY 1 ORDER BY 3 DESC, 1 LIMIT $1",
        SHOWN,
    )
    shown = [
        (
            round(row["total"] / 1000, 3),
            row["calls"],
            round(row["mean"], 3),
            row["rows"],
            without_literals(row["query"]),
        )
        for row in rows
    ]
    return Part(
        metrics=tuple(
            metric
            for row in rows
            for metric in (
                Metric("statement_seconds", str(row["queryid"]), row["total"] / 1000, "s"),
                Metric("statement_calls", str(row["queryid"]), row["calls"], "calls"),
            )
        ),
        listings=_if_any(
            "statements",
            "Queries that took the most time",
            ("seconds in all", "calls", "ms a call", "rows", "query"),
            shown,
        ),
    )


_NO_STATEMENTS = (
    "The top queries are not known: the extension pg_stat_statements is not in this database. Add it to the server's "
    "shared_preload_libraries, restart, and run CREATE EXTENSION pg_stat_statements."
)


# ---------------------------------------------------------------- tables and indexes


async def _tables(connection: Connection, _: Scene) -> Part:
    rows = await connection.fetch(SQL["tables"], SHOWN)
    shown = [
        (row["table"], row["rows"], row["dead"], shown_bytes(row["table_bytes"]), shown_bytes(row["index_bytes"]),
         f"{row['vacuumed']:%Y-%m-%d %H:%M}" if row["vacuumed"] else "never")
        for row in rows
    ]  # fmt: skip
    return Part(
        metrics=tuple(
            metric
            for row in rows
            for metric in (
                Metric("table_bytes", row["table"], row["table_bytes"], "bytes"),
                Metric("index_bytes", row["table"], row["index_bytes"], "bytes"),
                Metric("dead_rows", row["table"], row["dead"], "rows"),
            )
        ),
        listings=_if_any("tables", "The largest tables", ("table", "rows", "dead rows", "size", "indexes", "vacuumed"),
                         shown),
    )  # fmt: skip


async def _dead_rows(connection: Connection, scene: Scene) -> Part:
    allowed = scene.settings.monitor_dead_percent
    rows = await connection.fetch(SQL["dead_rows"], LARGE_TABLE, allowed)
    metrics = (Metric("tables_with_dead_rows", "", len(rows), "tables"),)
    if not rows:
        return Part(metrics=metrics)
    worst = rows[0]
    breach = Breach(
        "dead-rows",
        "",
        f"Tables with many dead rows: {len(rows)}, the worst {worst['table']} with {worst['percent']:.0f} % "
        f"({worst['dead']:,})",
        f"{allowed:g} %",
        "monitor_dead_percent",
        f"See why autovacuum does not keep up (an old transaction?), and run VACUUM {worst['table']}.",
        worst["percent"],
    )
    return Part(metrics=metrics, breaches=(breach,))


async def _indexes(connection: Connection, _: Scene) -> Part:
    unused = await connection.fetch(SQL["unused_indexes"])
    missing = await connection.fetch(SQL["missing_indexes"], LARGE_TABLE, SCANS, SHOWN)
    size = sum(row["bytes"] for row in unused)
    return Part(
        metrics=(
            Metric("unused_indexes", "", len(unused), "indexes"),
            Metric("unused_index_bytes", "", size, "bytes"),
            Metric("tables_without_index", "", len(missing), "tables"),
        ),
        listings=(
            *_if_any("unused-indexes", f"Indexes that were never read: {shown_count(len(unused))}, {shown_bytes(size)}",
                     ("index", "table", "size"),
                     [(row["index"], row["table"], shown_bytes(row["bytes"])) for row in unused[:SHOWN]]),
            *_if_any("missing-indexes", "Large tables read from end to end again and again: is an index missing?",
                     ("table", "rows", "scans of all of it", "rows a scan", "index scans"), _cells(missing)),
        ),
    )  # fmt: skip


def _if_any(key: str, title: str, head: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> tuple[Listing, ...]:
    return (listing(key, title, head, rows),) if rows else ()


async def _lag(connection: Connection, scene: Scene) -> Part:
    return await lag(connection, scene.settings, scene.before, scene.at)


def _cells(rows: Iterable[Any]) -> list[tuple[object, ...]]:
    return [tuple(row) for row in rows]


MEASURES: tuple[tuple[str, Measure], ...] = (
    ("The connections", _connections),
    ("The cache", _cache),
    ("The lag of the sync", _lag),
    ("Locks", _waiting),
    ("Active queries", _active),
    ("The top queries", _top_statements),
    ("The sizes of tables", _tables),
    ("Dead rows", _dead_rows),
    ("Indexes", _indexes),
)
"""The parts of a look, by what they are about; the first are those that matter most in trouble."""
