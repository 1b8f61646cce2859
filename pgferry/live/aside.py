"""Rows of the source that PostgreSQL cannot hold, while a move is live."""

from __future__ import annotations

from pgferry.finishing import NotAccepted
from pgferry.live.model import Live
from pgferry.postgres.handle import Connection
from pgferry.postgres.ledger import quarantine_counts


async def refuse_quarantined(conn: Connection, live: Live) -> int:
    """Return how many rows are in quarantine; raise NotAccepted when any are whose table does not accept that."""
    counts = await quarantine_counts(conn, live.run_id)
    open_tables = {table: rows for table, rows in sorted(counts.items()) if rows and table not in live.accepted}
    if open_tables:
        words = ", ".join(f"{rows} of {table}" for table, rows in open_tables.items())
        raise NotAccepted(
            f"Rows that PostgreSQL cannot hold are in quarantine: {words}. All others are carried.",
            "Look at them: python -m flows quarantine list. Correct them in the application, or accept them in "
            "pgferry.toml with `accept_quarantined = true`.",
        )
    return sum(counts.values())
