"""What the application does to its PostgreSQL database: one function an operation, each a part of one transaction."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg

from tests.acceptance.workload_schema import Chance

Operation = Callable[["Database", Chance], Awaitable[None]]

UNTAKEN = "NOT EXISTS (SELECT FROM {0} AS other WHERE other.{1} = $1)"

OPERATIONS: dict[str, Operation] = {}
WEIGHTS: dict[str, int] = {}


class RolledBack(Exception):
    """The operation has given its transaction up, on purpose."""


class Nothing(Exception):
    """There is no row to do it with."""


def operation(weight: int) -> Callable[[Operation], Operation]:
    """Register an operation, with how often it comes up."""

    def register(function: Operation) -> Operation:
        OPERATIONS[function.__name__] = function
        WEIGHTS[function.__name__] = weight
        return function

    return register


class Database:
    """The application's connection, with the few shorthands that the operations use."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self.connection = connection

    async def run(self, sql: str, *values: Any) -> int:
        """Run a statement and return the number of rows that it changed."""
        status: str = await self.connection.execute(sql, *map(sent, values))
        return int(status.rpartition(" ")[2])

    async def insert(self, table: str, values: dict[str, Any], tail: str = "") -> Any:
        """Write a row; return the first column's value of what RETURNING gives."""
        marks = ", ".join(f"${place}" for place in range(1, len(values) + 1))
        sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks}) {tail}"
        return await self.connection.fetchval(sql, *map(sent, values.values()))

    async def pick(self, table: str, columns: str, chance: Chance, lock: str = "") -> asyncpg.Record:
        """Return some columns of any row of the table; raises Nothing when there is none.

        A row that is to become a parent is locked with `FOR KEY SHARE`: another writer may be about to delete it.
        """
        count = await self.connection.fetchval(f"SELECT count(*) FROM {table}")
        row = None
        if count:
            row = await self.connection.fetchrow(
                f"SELECT {columns} FROM {table} OFFSET {chance.randrange(count)} LIMIT 1 {lock}"
            )
        if row is None:
            raise Nothing(table)
        return row


def sent(value: Any) -> Any:
    """Return a value as asyncpg takes it."""
    return json.dumps(value) if isinstance(value, dict | list) else value


async def work(connection: asyncpg.Connection[Any], name: str, chance: Chance) -> None:
    """Run an operation in the open transaction; nothing is done where its table is empty. Raises RolledBack."""
    with suppress(Nothing):
        await OPERATIONS[name](Database(connection), chance)


# ---------------------------------------------------------------- inserts


@operation(6)
async def sign_up(db: Database, chance: Chance) -> None:
    await db.insert("accounts", chance.account(), "ON CONFLICT DO NOTHING RETURNING id")


@operation(3)
async def sign_up_by_number(db: Database, chance: Chance) -> None:
    """The application names the id itself, of a row that it has just deleted, or a new one far away."""
    (id_,) = await db.pick("accounts", "id", chance)
    await db.run("DELETE FROM accounts WHERE id = $1", id_)
    if chance.some(0.3):
        id_ = 10**9 + chance.getrandbits(40)
    await db.insert("accounts", {**chance.account(), "id": id_}, "ON CONFLICT DO NOTHING")


@operation(4)
async def upsert(db: Database, chance: Chance) -> None:
    tail = "ON CONFLICT (name) DO UPDATE SET revision = options.revision + 1, value = excluded.value"
    option = {"name": f"option/{chance.randrange(60)}", "value": chance.document(), "revision": 0}
    await db.insert("options", option, tail)
    tail = "ON CONFLICT (lower(label)) DO UPDATE SET uses = tags.uses + excluded.uses, label = excluded.label"
    await db.insert("tags", {"label": chance.cased(f"tag {chance.randrange(60)}"), "uses": 1}, tail)
    tail = "ON CONFLICT (sku) DO UPDATE SET title = excluded.title, weight = excluded.weight"
    await db.insert("products", chance.product(), tail)


@operation(2)
async def insert_or_ignore(db: Database, chance: Chance) -> None:
    await db.insert("clubs", {"name": chance.club(), "title": chance.words()}, "ON CONFLICT DO NOTHING")
    await db.insert("seats", {"place": chance.randrange(60), "holder": chance.words()}, "ON CONFLICT DO NOTHING")
    await db.insert("products", chance.product(), "ON CONFLICT DO NOTHING")


@operation(1)
async def copy_rows(db: Database, chance: Chance) -> None:
    await db.run("INSERT INTO scratch (label, amount) SELECT handle, rating FROM accounts LIMIT 20")
    rows = [("copied", chance.real()) for _ in range(30)]
    await db.connection.copy_records_to_table("scratch", records=rows, columns=["label", "amount"])


@operation(3)
async def replace_product(db: Database, chance: Chance) -> None:
    product = chance.product()
    sql = "DELETE FROM products WHERE sku = $1 OR (shelf, position) = ($2, $3)"
    gone = await db.run(sql, product["sku"], product["shelf"], product["position"])
    await db.insert("products", product)
    await db.insert("audit", {"what": "replaced", "before": str(gone), "after": product["sku"], "at": chance.stamp()})


# ---------------------------------------------------------------- updates


@operation(10)
async def update_account(db: Database, chance: Chance) -> None:
    (id_,) = await db.pick("accounts", "id", chance)
    new = chance.account()
    names = ("balance", "rating", "preferences", "avatar", "uid", "born", "wakes", "updated_at", "tier")
    changes = ", ".join(f"{name} = ${place}" for place, name in enumerate(names, 2))
    await db.run(f"UPDATE accounts SET {changes} WHERE id = $1", id_, *(new[name] for name in names))


@operation(5)
async def sell(db: Database, chance: Chance) -> None:
    (sku,) = await db.pick("products", "sku", chance)
    sql = "UPDATE products SET stock = stock - $1, updated_at = clock_timestamp() AT TIME ZONE 'UTC' WHERE sku = $2"
    await db.run(sql, chance.randrange(3), sku)
    await db.insert("audit", {"what": f"stock of {sku}", "before": None, "after": None, "at": chance.stamp()})


@operation(2)
async def update_many(db: Database, chance: Chance) -> None:
    sql = "UPDATE accounts SET balance = -balance, active = false WHERE region = $1"
    await db.run(sql, chance.choice(("north", "Süd", "o'st")))
    await db.run("UPDATE products SET weight = weight + 0.1 WHERE position < 20")


@operation(3)
async def update_unique(db: Database, chance: Chance) -> None:
    (id_,) = await db.pick("accounts", "id", chance)
    handle = f"{chance.handle()}-{chance.randrange(100)}"
    await db.run("UPDATE accounts SET handle = $1, nick = $2 WHERE id = $3", handle, handle, id_)
    slot = "(SELECT max(slot) + 1 FROM accounts)" if chance.some(0.7) else str(chance.randrange(200))
    await db.run(f"UPDATE accounts SET active = true, slot = {slot} WHERE id = $1", id_)


@operation(3)
async def update_keys(db: Database, chance: Chance) -> None:
    (sku,) = await db.pick("products", "sku", chance)
    await db.run(
        f"UPDATE products SET sku = $1 WHERE sku = $2 AND {UNTAKEN.format('products', 'sku')}", chance.sku(), sku
    )
    (label,) = await db.pick("tags", "label", chance)
    await db.run("UPDATE tags SET label = $1 WHERE label = $2", chance.cased(label), label)
    order, line = await db.pick("order_lines", "order_id, line", chance)
    await db.run("UPDATE order_lines SET line = line + 5 WHERE (order_id, line) = ($1, $2)", order, line)
    (name,) = await db.pick("options", "name", chance)
    sql = f"UPDATE options SET name = $1 WHERE name = $2 AND {UNTAKEN.format('options', 'name')}"
    await db.run(sql, f"option/{chance.randrange(60)}", name)


@operation(2)
async def update_parent_keys(db: Database, chance: Chance) -> None:
    (id_,) = await db.pick("accounts", "id", chance)
    await db.run("UPDATE accounts SET id = nextval('accounts_id_seq') WHERE id = $1", id_)
    (club,) = await db.pick("clubs", "name", chance)
    await db.run(
        f"UPDATE clubs SET name = $1 WHERE name = $2 AND {UNTAKEN.format('clubs', 'name')}", chance.club(), club
    )


@operation(3)
async def swap(db: Database, chance: Chance) -> None:
    first, second = [await db.pick("seats", "id, place", chance) for _ in range(2)]
    if first == second:
        return
    await db.run("UPDATE seats SET place = -1 WHERE id = $1", first["id"])
    await db.run("UPDATE seats SET place = $1 WHERE id = $2", first["place"], second["id"])
    await db.run("UPDATE seats SET place = $1 WHERE id = $2", second["place"], first["id"])
    await db.run("UPDATE seats SET id = -1 WHERE id = $1", first["id"])
    await db.run("UPDATE seats SET id = $1 WHERE id = $2", first["id"], second["id"])
    await db.run("UPDATE seats SET id = $1 WHERE id = -1", second["id"])


# ---------------------------------------------------------------- deletes


@operation(3)
async def delete_account(db: Database, chance: Chance) -> None:
    (id_,) = await db.pick("accounts", "id", chance)
    await db.run("DELETE FROM accounts WHERE id = $1", id_)


@operation(1)
async def delete_club(db: Database, chance: Chance) -> None:
    (club,) = await db.pick("clubs", "name", chance)
    await db.run("DELETE FROM clubs WHERE name = $1", club)


@operation(2)
async def grow_and_cut_tree(db: Database, chance: Chance) -> None:
    parent = None
    with suppress(Nothing):
        (parent,) = await db.pick("nodes", "id", chance, "FOR KEY SHARE")
    for _ in range(4):
        await db.insert("nodes", {"parent_id": parent if chance.some(0.8) else None, "title": chance.words()})
    if await db.connection.fetchval("SELECT count(*) FROM nodes") > 60:
        await db.run("DELETE FROM nodes WHERE id = $1", parent)


@operation(2)
async def empty_scratch(db: Database, chance: Chance) -> None:
    await db.connection.execute(
        chance.choice(("TRUNCATE scratch", "TRUNCATE scratch RESTART IDENTITY", "DELETE FROM scratch"))
    )
    for place in range(chance.randrange(4)):
        await db.insert("scratch", {"label": f"again {place}", "amount": chance.real()})


@operation(1)
async def sweep(db: Database, chance: Chance) -> None:
    await db.run("DELETE FROM audit WHERE id <= (SELECT max(id) - 300 FROM audit)")
    await db.run("DELETE FROM orders WHERE id <= (SELECT max(id) - 500 FROM orders)")
    await db.run("DELETE FROM accounts WHERE id IN (SELECT id FROM accounts ORDER BY id OFFSET 200)")


# ---------------------------------------------------------------- the table without a key


@operation(5)
async def log_events(db: Database, chance: Chance) -> None:
    event = chance.event()
    for _ in range(chance.randrange(1, 4)):
        await db.insert("events", event)


@operation(3)
async def change_events(db: Database, chance: Chance) -> None:
    (place,) = await db.pick("events", "ctid", chance)
    await db.run("UPDATE events SET amount = $1, kind = 'changed' WHERE ctid = $2", chance.real(), place)
    (place,) = await db.pick("events", "ctid", chance)
    await db.run("DELETE FROM events WHERE ctid = $1", place)


@operation(1)
async def sweep_events(db: Database, chance: Chance) -> None:
    sql = "DELETE FROM events WHERE kind IS NOT DISTINCT FROM $1 AND amount IS NOT DISTINCT FROM $2"
    event = chance.event()
    await db.run(sql, event["kind"], event["amount"])
    await db.run("UPDATE events SET kind = 'login' WHERE kind = 'changed'")


# ---------------------------------------------------------------- transactions


@operation(6)
async def place_order(db: Database, chance: Chance) -> None:
    (account,) = await db.pick("accounts", "id", chance, "FOR KEY SHARE")
    (referrer,) = await db.pick("accounts", "id", chance, "FOR KEY SHARE")
    order = await db.insert("orders", chance.order(account, chance.choice((None, referrer))), "RETURNING id")
    for line in range(chance.randrange(1, 4)):
        await db.insert("order_lines", chance.order_line(order, line), "ON CONFLICT DO NOTHING")
    tail = "ON CONFLICT (name) DO UPDATE SET title = clubs.title"
    await db.insert("clubs", {"name": "club 0", "title": None}, tail)
    membership = {"account_id": account, "club": "club 0", "since": chance.stamp().date()}
    tail = "ON CONFLICT (account_id, club) DO UPDATE SET since = excluded.since"
    await db.insert("memberships", membership, tail)
    await db.run("UPDATE accounts SET balance = balance - 0.01 WHERE id = $1", account)


@operation(2)
async def change_your_mind(db: Database, chance: Chance) -> None:
    for name in chance.sample(SIMPLE, 3):
        await work(db.connection, name, chance)
    raise RolledBack


@operation(3)
async def savepoints(db: Database, chance: Chance) -> None:
    first, second, third = chance.sample(SIMPLE, 3)
    await work(db.connection, first, chance)
    with suppress(RolledBack, asyncpg.UniqueViolationError):
        async with db.connection.transaction():
            await work(db.connection, second, chance)
            if chance.some(0.5):
                raise RolledBack
    await work(db.connection, third, chance)


@operation(2)
async def several(db: Database, chance: Chance) -> None:
    for name in chance.sample(SIMPLE, 4):
        await work(db.connection, name, chance)


SIMPLE = (
    *("sign_up", "upsert", "update_account", "sell", "update_unique", "update_keys", "update_parent_keys", "swap"),
    *("delete_account", "empty_scratch", "log_events", "change_events", "place_order", "grow_and_cut_tree"),
)
"""The operations that other operations are made of."""
