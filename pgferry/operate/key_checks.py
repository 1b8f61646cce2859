"""What a preflight says of rows that are one to a unique key of the target."""

from __future__ import annotations

from pathlib import Path

from pgferry.collisions import Collision, Unchecked, find_collisions
from pgferry.operate.check import Check, failed_check, listed, passed, warned
from pgferry.operate.target_checks import Paired
from pgferry.postgres.catalog import read_unique_keys
from pgferry.postgres.connection import Connection
from pgferry.sqlite.connect import reading


async def check_unique_keys(conn: Connection, copy: Path, paired: Paired) -> Check:
    """Look for rows of a snapshot that collide under the target's unique keys; at most a GROUP BY for each key."""
    name = "unique keys"
    keys = await read_unique_keys(conn, paired.oids)
    with reading(copy) as source:
        found = list(find_collisions(source, paired.pairs, keys, thorough=True))
    collisions = [item for item in found if isinstance(item, Collision)]
    if collisions:
        tell = failed_check if any(item.certain for item in collisions) else warned
        return tell(
            name,
            listed([str(item) for item in collisions]),
            "Correct these rows in the source, or change the key by a migration: the target takes one of them only.",
        )
    left = [str(item) for item in found if isinstance(item, Unchecked)]
    rest = f"; found only when they are built: collisions under {listed(left)}" if left else ""
    return passed(name, f"no rows collide under {len(keys) - len(left):,} keys of the target{rest}")
