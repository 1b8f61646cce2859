"""What the application does to its SQLite file: one function an operation, each a part of one transaction.

An operation also checks what the driver tells it (lastrowid, changes, RETURNING, errors), because change capture must
not be noticed there either.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.acceptance.workload_schema import Chance, insert, stored

Operation = Callable[["File", Chance], None]

OPERATIONS: dict[str, Operation] = {}
WEIGHTS: dict[str, int] = {}


class RolledBack(Exception):
    """The operation has given its transaction up, on purpose."""


class Nothing(Exception):
    """There is no row to do it with."""


class Wrong(Exception):
    """The database answered something else than it should have."""


def operation(weight: int) -> Callable[[Operation], Operation]:
    """Register an operation, with how often it comes up."""

    def register(function: Operation) -> Operation:
        OPERATIONS[function.__name__] = function
        WEIGHTS[function.__name__] = weight
        return function

    return register


class File:
    """The application's connection, with the few shorthands that the operations use."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def run(self, sql: str, *values: Any) -> int:
        """Run a statement and return the number of rows that it changed, by the driver's word and by SQLite's."""
        count = self.connection.execute(sql, [stored(value) for value in values]).rowcount
        check(count == self.value("SELECT changes()"), f"rowcount is {count}, but changes() is not: {sql}")
        return count

    def insert(self, table: str, values: dict[str, Any], verb: str = "INSERT", tail: str = "") -> int:
        return insert(self.connection, table, values, verb, tail)

    def value(self, sql: str, *values: Any) -> Any:
        row = self.connection.execute(sql, [stored(value) for value in values]).fetchone()
        return row[0] if row else None

    def pick(self, table: str, columns: str, chance: Chance) -> tuple[Any, ...]:
        """Return some columns of any row of the table; raises Nothing when there is none."""
        count = self.value(f"SELECT count(*) FROM {table}")
        if not count:
            raise Nothing(table)
        offset = chance.randrange(count)
        row: tuple[Any, ...] = self.connection.execute(
            f"SELECT {columns} FROM {table} LIMIT 1 OFFSET {offset}"
        ).fetchone()
        return row


def check(holds: bool, sentence: str) -> None:
    if not holds:
        raise Wrong(sentence)


def work(connection: sqlite3.Connection, name: str, chance: Chance) -> None:
    """Run an operation in the open transaction; nothing is done where its table is empty. Raises RolledBack."""
    with suppress(Nothing):
        OPERATIONS[name](File(connection), chance)


# ---------------------------------------------------------------- inserts, and what they displace


@operation(6)
def sign_up(file: File, chance: Chance) -> None:
    account = {**chance.account(), "handle": f"new-{chance.getrandbits(40)}", "number": chance.getrandbits(30)}
    account |= {"nick": account["handle"], "email": None, "slot": None}
    id_ = file.insert("accounts", account)
    check(
        file.value("SELECT handle FROM accounts WHERE id = ?", id_) == account["handle"], "lastrowid is another row's"
    )


@operation(3)
def sign_up_returning(file: File, chance: Chance) -> None:
    account = chance.account()
    sql = "INSERT OR REPLACE INTO accounts (handle, nick, region, number, active, tier, balance, uid, created_at) "
    values = [stored(account[name]) for name in sql[sql.index("(") + 1 : -2].split(", ")]
    rows = file.connection.execute(f"{sql} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id, handle", values).fetchall()
    check([handle for _, handle in rows] == [account["handle"]], f"RETURNING gave {rows}")


def _replace_by(*columns: str) -> Operation:
    """Return an operation that takes over these columns of an existing account, and collides there alone."""

    def replace(file: File, chance: Chance) -> None:
        id_, *taken = file.pick("accounts", ", ".join(("id", *columns)), chance)
        unique = f"only-{chance.getrandbits(40)}"
        free = {"handle": unique, "nick": unique, "number": chance.getrandbits(30), "email": None, "slot": None}
        account = {**chance.account(), **free, **dict(zip(columns, taken, strict=True))}
        if "slot" in columns:
            account["active"] = True
        if "nick" in columns:
            account["nick"] = chance.cased(account["nick"])
        if "email" in columns and account["email"]:
            account["email"] = chance.cased(account["email"])
        new = file.insert("accounts", account, "INSERT OR REPLACE" if chance.some(0.7) else "REPLACE")
        check("id" in columns or new != id_, "a new row has the id of an old one")

    return replace


for _name, _columns in {
    "id": ("id",),
    "handle": ("handle",),
    "nick": ("nick",),
    "region": ("region", "number"),
    "email": ("email",),
    "slot": ("slot",),
}.items():
    _function = _replace_by(*_columns)
    _function.__name__ = f"replace_by_{_name}"
    operation(3)(_function)


@operation(3)
def replace_many_at_once(file: File, chance: Chance) -> None:
    """One new row may displace five others, one through each unique index."""
    file.insert("accounts", chance.account(), "INSERT OR REPLACE")


@operation(3)
def replace_product(file: File, chance: Chance) -> None:
    file.insert("products", chance.product(), "INSERT OR REPLACE")


@operation(2)
def replace_without_rowid(file: File, chance: Chance) -> None:
    (order,) = file.pick("orders", "id", chance)
    file.insert("order_lines", chance.order_line(order, chance.randrange(4)), "INSERT OR REPLACE")
    option = {"name": f"option/{chance.randrange(60)}", "value": chance.document(), "revision": 0}
    file.insert("options", option, "INSERT OR REPLACE")


@operation(3)
def upsert(file: File, chance: Chance) -> None:
    tail = "ON CONFLICT (name) DO UPDATE SET revision = revision + 1, value = excluded.value"
    option = {"name": f"option/{chance.randrange(60)}", "value": chance.document(), "revision": 0}
    file.insert("options", option, tail=tail)
    tail = "ON CONFLICT (label) DO UPDATE SET uses = uses + excluded.uses, label = excluded.label"
    file.insert("tags", {"label": chance.cased(f"tag {chance.randrange(60)}"), "uses": 1, "colour": None}, tail=tail)


@operation(3)
def upsert_or_nothing(file: File, chance: Chance) -> None:
    tail = (
        "ON CONFLICT (handle) DO UPDATE SET balance = excluded.balance, handle = excluded.handle || '+' "
        "ON CONFLICT DO NOTHING"
    )
    file.insert("accounts", {**chance.account(), "handle": chance.handle()}, tail=tail)


@operation(3)
def insert_or_ignore(file: File, chance: Chance) -> None:
    file.insert("accounts", chance.account(), "INSERT OR IGNORE")
    file.insert("products", chance.product(), "INSERT OR IGNORE")
    file.insert("tags", {"label": chance.cased(f"tag {chance.randrange(60)}"), "uses": 0}, "INSERT OR IGNORE")
    file.insert("clubs", {"name": chance.club(), "title": chance.words()}, "INSERT OR IGNORE")


@operation(1)
def insert_or_fail(file: File, chance: Chance) -> None:
    """Some rows of the statement are in when it fails, and stay."""
    rows = [chance.product() for _ in range(6)]
    marks = ", ".join(["(?, ?, ?, ?, ?)"] * len(rows))
    sql = f"INSERT OR FAIL INTO products (sku, title, stock, shelf, position) VALUES {marks}"
    values = [row[name] for row in rows for name in ("sku", "title", "stock", "shelf", "position")]
    with expected_conflict():
        file.connection.execute(sql, values)


@operation(1)
def insert_or_rollback(file: File, chance: Chance) -> None:
    """A conflict takes the whole transaction back."""
    try:
        file.insert("products", chance.product(), "INSERT OR ROLLBACK")
    except sqlite3.IntegrityError as error:
        if not str(error).startswith("UNIQUE constraint failed: products."):
            raise
        check(not file.connection.in_transaction, "INSERT OR ROLLBACK left its transaction open")
        raise RolledBack from error


@operation(1)
def copy_rows(file: File, chance: Chance) -> None:
    file.run("INSERT INTO scratch (label, amount) SELECT handle, rating FROM accounts ORDER BY id LIMIT 20")
    highest = file.value("SELECT coalesce(max(id), 0) FROM scratch")
    rows = [(highest + place, "many", chance.real()) for place in range(1, 30)]
    file.connection.executemany("INSERT INTO scratch (id, label, amount) VALUES (?, ?, ?)", rows)


# ---------------------------------------------------------------- updates


@operation(10)
def update_account(file: File, chance: Chance) -> None:
    (id_,) = file.pick("accounts", "id", chance)
    new = chance.account()
    sql = (
        "UPDATE accounts SET balance = ?, rating = ?, preferences = ?, avatar = ?, born = ?, wakes = ?, updated_at = ?"
    )
    names = ("balance", "rating", "preferences", "avatar", "born", "wakes", "updated_at")
    check(file.run(f"{sql} WHERE id = ?", *(new[name] for name in names), id_) == 1, "one row, but not one change")


@operation(6)
def sell(file: File, chance: Chance) -> None:
    """The application's own triggers set updated_at and write an audit row."""
    (sku,) = file.pick("products", "sku", chance)
    file.run("UPDATE products SET stock = stock - ? WHERE sku = ?", chance.randrange(3), sku)


@operation(2)
def update_many(file: File, chance: Chance) -> None:
    region = chance.choice(("north", "Süd", "o'st"))
    count = file.value("SELECT count(*) FROM accounts WHERE region = ?", region)
    changed = file.run("UPDATE accounts SET rating = rating / 3, tier = 'PRO' WHERE region = ?", region)
    check(changed == count, f"{count} rows, but {changed} changes")
    file.run("UPDATE products SET weight = weight + 0.1 WHERE position < 20")


@operation(2)
def update_nothing(file: File, chance: Chance) -> None:
    check(file.run("UPDATE orders SET paid = 1 WHERE id = -5") == 0, "no row, but a change")
    file.run("UPDATE seats SET place = place, id = id")


@operation(3)
def update_unique(file: File, chance: Chance) -> None:
    (id_,) = file.pick("accounts", "id", chance)
    verb = chance.choice(("UPDATE OR IGNORE", "UPDATE OR REPLACE"))
    file.run(f"{verb} accounts SET handle = ?, nick = ? WHERE id = ?", chance.handle(), chance.nick(), id_)
    file.run(f"{verb} accounts SET active = 1, slot = ? WHERE id = ?", chance.randrange(200), id_)
    file.run(f"{verb} accounts SET email = upper(email), number = number + 1 WHERE id = ?", id_)


@operation(2)
def update_or_replace_many(file: File, chance: Chance) -> None:
    """Rows of the statement displace one another."""
    verb = "UPDATE OR REPLACE"
    file.run(f"{verb} accounts SET number = number / 2, slot = slot / 2 WHERE region = 'north' AND number < 60")
    file.run(f"{verb} products SET position = position + 1 WHERE shelf = ?", chance.choice("ABC"))
    file.run(f"{verb} scratch SET id = id / 2 WHERE id % 5 = 0")
    (order,) = file.pick("order_lines", "order_id", chance)
    file.run(f"{verb} order_lines SET line = line + 1 WHERE order_id = ?", order)


@operation(3)
def update_keys(file: File, chance: Chance) -> None:
    (sku,) = file.pick("products", "sku", chance)
    file.run("UPDATE OR IGNORE products SET sku = ? WHERE sku = ?", chance.sku(), sku)
    (label,) = file.pick("tags", "label", chance)
    file.run("UPDATE tags SET label = ? WHERE label = ?", chance.cased(label), label)
    id_, club = file.pick("memberships", "account_id, club", chance)
    sql = "UPDATE OR REPLACE memberships SET club = ? WHERE (account_id, club) = (?, ?)"
    file.run(sql, file.pick("clubs", "name", chance)[0], id_, club)
    (name,) = file.pick("options", "name", chance)
    file.run("UPDATE OR REPLACE options SET name = ? WHERE name = ?", f"option/{chance.randrange(60)}", name)


@operation(2)
def update_parent_keys(file: File, chance: Chance) -> None:
    """The change of the key reaches children by ON UPDATE CASCADE."""
    (id_,) = file.pick("accounts", "id", chance)
    file.run("UPDATE accounts SET id = (SELECT max(id) + 1 FROM accounts) WHERE id = ?", id_)
    (club,) = file.pick("clubs", "name", chance)
    file.run("UPDATE OR IGNORE clubs SET name = ? WHERE name = ?", chance.club(), club)


@operation(3)
def swap(file: File, chance: Chance) -> None:
    """Two rows exchange their unique values, two others their ids."""
    first, second = (file.pick("seats", "id, place", chance) for _ in range(2))
    if first == second:
        return
    file.run("UPDATE seats SET place = -1 WHERE id = ?", first[0])
    file.run("UPDATE seats SET place = ? WHERE id = ?", first[1], second[0])
    file.run("UPDATE seats SET place = ? WHERE id = ?", second[1], first[0])
    file.run("UPDATE seats SET id = -1 WHERE id = ?", first[0])
    file.run("UPDATE seats SET id = ? WHERE id = ?", first[0], second[0])
    file.run("UPDATE seats SET id = ? WHERE id = -1", second[0])


@operation(2)
def rotate(file: File, chance: Chance) -> None:
    """All places of the house move on by one, in two statements."""
    file.run("UPDATE seats SET place = -place - 2, holder = ?", chance.words())
    file.run("UPDATE seats SET place = (-place - 2 + 1) % 100000")


# ---------------------------------------------------------------- deletes


@operation(3)
def delete_account(file: File, chance: Chance) -> None:
    """Its memberships and orders go with it, their lines with these; where it is the referrer, NULL stays."""
    (id_,) = file.pick("accounts", "id", chance)
    check(file.run("DELETE FROM accounts WHERE id = ?", id_) == 1, "one row deleted, but not one change")


@operation(1)
def delete_club(file: File, chance: Chance) -> None:
    (club,) = file.pick("clubs", "name", chance)
    file.run("DELETE FROM clubs WHERE name = ?", club)


@operation(2)
def grow_and_cut_tree(file: File, chance: Chance) -> None:
    (id_,) = file.pick("nodes", "id", chance)
    for _ in range(4):
        file.insert("nodes", {"parent_id": id_ if chance.some(0.8) else None, "title": chance.words()})
    if file.value("SELECT count(*) FROM nodes") > 60:
        file.run("DELETE FROM nodes WHERE id = ?", id_)


@operation(2)
def empty_scratch(file: File, chance: Chance) -> None:
    """SQLite has a short cut for a DELETE without WHERE."""
    count = file.value("SELECT count(*) FROM scratch")
    check(file.run("DELETE FROM scratch") == count, f"{count} rows deleted, but another number of changes")
    for place in range(chance.randrange(4)):
        file.insert("scratch", {"label": f"again {place}", "amount": chance.real()})


@operation(1)
def sweep(file: File, chance: Chance) -> None:
    file.run("DELETE FROM audit WHERE id <= (SELECT max(id) - 300 FROM audit)")
    file.run("DELETE FROM orders WHERE id <= (SELECT max(id) - 200 FROM orders)")
    file.run("DELETE FROM scratch WHERE id > 100")
    file.run("DELETE FROM accounts WHERE id IN (SELECT id FROM accounts ORDER BY id LIMIT -1 OFFSET 250)")


# ---------------------------------------------------------------- the table without a key


@operation(5)
def log_events(file: File, chance: Chance) -> None:
    event = chance.event()
    for _ in range(chance.randrange(1, 4)):
        file.insert("events", event)


@operation(3)
def change_events(file: File, chance: Chance) -> None:
    """One of many equal rows is changed, and one deleted."""
    (rowid,) = file.pick("events", "rowid", chance)
    file.run("UPDATE events SET amount = ?, kind = 'changed' WHERE rowid = ?", chance.real(), rowid)
    (rowid,) = file.pick("events", "rowid", chance)
    file.run("DELETE FROM events WHERE rowid = ?", rowid)
    file.run("UPDATE events SET rowid = (SELECT max(rowid) + 1 FROM events) WHERE rowid = ?", rowid + 1)


@operation(1)
def sweep_events(file: File, chance: Chance) -> None:
    event = chance.event()
    file.run("DELETE FROM events WHERE kind IS ? AND amount IS ?", event["kind"], event["amount"])
    file.run("DELETE FROM events WHERE rowid <= (SELECT max(rowid) - 600 FROM events)")
    file.run("UPDATE events SET kind = 'login' WHERE kind = 'changed'")


# ---------------------------------------------------------------- transactions


@operation(6)
def place_order(file: File, chance: Chance) -> None:
    (account,) = file.pick("accounts", "id", chance)
    (referrer,) = file.pick("accounts", "id", chance)
    order = file.insert("orders", chance.order(account, chance.choice((None, referrer))))
    for line in range(chance.randrange(1, 4)):
        file.insert("order_lines", chance.order_line(order, line), "INSERT OR IGNORE")
    membership = {"account_id": account, "club": "club 0", "since": chance.stamp().date()}
    file.insert("clubs", {"name": "club 0", "title": None}, "INSERT OR IGNORE")
    file.insert("memberships", membership, "INSERT OR REPLACE")
    file.run("UPDATE accounts SET balance = round(balance - 0.01, 2) WHERE id = ?", account)


@operation(2)
def change_your_mind(file: File, chance: Chance) -> None:
    for name in chance.sample(SIMPLE, 3):
        work(file.connection, name, chance)
    raise RolledBack


@operation(3)
def savepoints(file: File, chance: Chance) -> None:
    first, second, third, fourth = chance.sample(SIMPLE, 4)
    work(file.connection, first, chance)
    file.connection.execute("SAVEPOINT outer_one")
    work(file.connection, second, chance)
    file.connection.execute("SAVEPOINT inner_one")
    work(file.connection, third, chance)
    file.connection.execute("ROLLBACK TO inner_one")
    work(file.connection, fourth, chance)
    file.connection.execute("RELEASE inner_one")
    file.connection.execute(chance.choice(("RELEASE outer_one", "ROLLBACK TO outer_one")))


@operation(3)
def fail_and_go_on(file: File, chance: Chance) -> None:
    """A statement that fails half-way leaves nothing; the transaction goes on."""
    (handle,) = file.pick("accounts", "handle", chance)
    before = file.value("SELECT sum(number) FROM accounts")
    with expected_conflict():
        file.run("UPDATE accounts SET handle = ?, number = number + 1000000", handle)
    check(file.value("SELECT sum(number) FROM accounts") == before, "a failed statement left something behind")
    with expected_conflict():
        file.insert("accounts", {**chance.account(), "handle": handle})
    sell(file, chance)


@operation(2)
def several(file: File, chance: Chance) -> None:
    for name in chance.sample(SIMPLE, 4):
        work(file.connection, name, chance)


class expected_conflict:
    """Swallow a violated constraint of the application's own tables, and nothing else."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        found = str(error)
        unique = isinstance(error, sqlite3.IntegrityError) and found.startswith("UNIQUE constraint failed: ")
        return unique and "_pgferry" not in found


SIMPLE = (
    *("sign_up", "replace_by_handle", "replace_many_at_once", "replace_product", "upsert", "update_account", "sell"),
    *("update_unique", "update_keys", "update_parent_keys", "swap", "delete_account", "empty_scratch", "log_events"),
    *("change_events", "place_order", "grow_and_cut_tree"),
)
"""The operations that other operations are made of."""
