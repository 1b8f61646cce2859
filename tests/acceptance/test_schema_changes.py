"""The documented way of a schema change while SQLite is in front: PostgreSQL first, then SQLite, then `--resume`.

One Alembic history for both databases, as applications have it; the steps are those of docs/schema-changes.md.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import URL

from pgferry.errors import Permanent, UsageError
from pgferry.live.changes import SchemaChanged
from pgferry.live.repair import repair
from pgferry.live.validate import validate
from pgferry.operate.run_revisions import change
from pgferry.operate.schema_change import MEND, RESUME, follow_up, refuse_untimely, stand
from pgferry.postgres import schema
from pgferry.postgres.connection import connect
from pgferry.postgres.journal import live_run
from pgferry.postgres.ledger import install
from pgferry.postgres.standing_keys import _put_in_place
from tests.acceptance.independent import Ways, differences, tables_of
from tests.acceptance.moving import ENV
from tests.live import LiveMove

FIRST = """
    op.create_table(
        "items",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
    )
    op.create_table(
        "trades",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("item_id", sa.Integer(), sa.ForeignKey("items.id", name="trades_item")),
        sa.Column("note", sa.Text()),
        sa.Column("price", sa.Integer()),
    )
"""
CHANGE = """
    with op.batch_alter_table("items") as batch:  # in SQLite a new table, and the old one's rows copied to it
        batch.add_column(sa.Column("colour", sa.Text(), nullable=False, server_default="none"))
    op.execute("UPDATE items SET colour = 'red' WHERE id < 5")
    op.create_table(
        "tags",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("item_id", sa.Integer(), sa.ForeignKey("items.id", name="tags_item")),
    )
    with op.batch_alter_table("trades") as batch:
        batch.drop_column("note")
        batch.alter_column("price", new_column_name="cost")
"""
KEYS = """
    with op.batch_alter_table("tags") as batch:
        batch.drop_constraint("tags_item", type_="foreignkey")
        batch.create_foreign_key("tags_item", "items", ["item_id"], ["id"], ondelete="CASCADE")
    with op.batch_alter_table("trades") as batch:
        batch.alter_column("item_id", new_column_name="item")
"""
BACK = """
    with op.batch_alter_table("trades") as batch:
        batch.alter_column("cost", new_column_name="price")
        batch.add_column(sa.Column("note", sa.Text()))
    op.drop_table("tags")
    with op.batch_alter_table("items") as batch:
        batch.drop_column("colour")
"""


def write_project(folder: Path) -> Path:
    """Write the application's Alembic history; return its configuration."""
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True)
    (folder / "migrations" / "env.py").write_text(ENV)
    write_revision(versions, "0001", None, FIRST, "op.drop_table('trades')")
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\n")
    return folder / "alembic.ini"


def write_revision(versions: Path, name: str, down: str | None, upgrade: str, downgrade: str) -> None:
    (versions / f"{name}.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision, down_revision = {name!r}, {down!r}\n\n\n"
        f"def upgrade() -> None:\n    {upgrade.strip()}\n\n\ndef downgrade() -> None:\n    {downgrade.strip()}\n"
    )


class App:
    """The application: its SQLite file, and its own way to migrate it."""

    def __init__(self, path: Path, config: Path) -> None:
        self.path = path
        self.config = config

    def migrate(self, revision: str = "head") -> None:
        """Run `alembic upgrade` on SQLite."""
        engine = sqlalchemy.create_engine(f"sqlite:///{self.path}")
        config = Config(self.config)
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.commit()
        engine.dispose()

    def write(self, *statements: str) -> None:
        """Write to SQLite, each statement in a transaction of its own."""
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=20)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            for statement in statements:
                connection.execute(statement)


@pytest.fixture
def app(tmp_path: Path) -> App:
    """An application with some rows."""
    made = App(tmp_path / "app.db", write_project(tmp_path))
    made.migrate()
    made.write(
        "PRAGMA journal_mode = wal",
        *(f"INSERT INTO items (name) VALUES ('item {n}')" for n in range(1, 41)),
        *(f"INSERT INTO trades (item_id, note, price) VALUES ({1 + n % 40}, 'n', {n})" for n in range(300)),
    )
    return made


@pytest.fixture
async def move(tmp_path: Path, app: App, database_url: URL) -> LiveMove:
    """The application in dual-write."""
    await schema.upgrade(database_url, app.config)
    moving = LiveMove(database_url, app.path, tmp_path / "home")
    await moving.dual_write()
    return moving


async def upgrade(move: LiveMove, app: App, revision: str = "head", *, down: bool = False) -> tuple[str, ...]:
    """Do what the flows schema-upgrade and schema-downgrade do; returns what they tell to do next."""
    async with move.session() as server:
        standing = await stand(server, app.config)
        refuse_untimely(standing, after_switch=False)
        await change(move.url, app.config, revision, down=down)
        return await follow_up(server, standing, move.rules, down=down)


async def differing(app: App, move: LiveMove) -> list[str]:
    """Return what differs, by the independent comparison."""
    with closing(sqlite3.connect(app.path)) as opened:
        ours = [name for name in tables_of(opened) if name.startswith("_pgferry_")]
    return await differences(app.path, move.url, Ways(left_out=(*ours, "alembic_version")))


async def foreign_keys(server: asyncpg.Connection[asyncpg.Record]) -> dict[str, str]:
    """Return the definitions of the foreign keys that are there, by name."""
    keys = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND "
        "connamespace = 'public'::regnamespace"
    )
    return {row[0]: row[1] for row in await server.fetch(keys)}


async def test_a_schema_change_in_dual_write(
    move: LiveMove, app: App, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    versions = app.config.parent / "migrations" / "versions"
    write_revision(versions, "0002", "0001", CHANGE, BACK)
    app.write("INSERT INTO items (name) VALUES ('before')")

    # (a) PostgreSQL, by pgferry: its UPDATE passes the fence, other sessions' do not; the new foreign key waits.
    assert await upgrade(move, app) == (RESUME,)
    assert await connection.fetchval("SELECT count(*) FROM items WHERE colour = 'red'") == 4
    with pytest.raises(asyncpg.PostgresError, match="SQLite is in front"):
        await connection.execute("UPDATE items SET colour = 'blue'")
    assert await foreign_keys(connection) == {}

    # (b) SQLite, by the application; from here on the sync stops and says what to do.
    await asyncio.to_thread(app.migrate)
    app.write("INSERT INTO items (name, colour) VALUES ('between', 'green')", "DELETE FROM trades WHERE id = 7")
    with pytest.raises(SchemaChanged, match="dual-write --resume"):
        await move.sync()

    # (c) Capture for the tables of now, and only those copied again.
    assert set((await move.resume()).copied) == {"items", "tags", "trades"}
    assert await differing(app, move) == []
    app.write("INSERT INTO tags (item_id) VALUES (3)", "UPDATE trades SET cost = 1 WHERE id = 9")
    await move.sync()
    assert await differing(app, move) == []

    # Once more, with what the foreign keys are about, although they wait.
    write_revision(versions, "0003", "0002", KEYS, "pass")
    await upgrade(move, app)
    await asyncio.to_thread(app.migrate)
    assert set((await move.resume()).copied) == {"tags", "trades"}
    app.write("INSERT INTO trades (item) VALUES (3)", "DELETE FROM tags")
    await move.sync()
    assert await differing(app, move) == []

    # The switch adds every foreign key as it is now, the new one too; from then on the schema stays.
    await move.switch()
    assert await foreign_keys(connection) == {
        "trades_item": "FOREIGN KEY (item) REFERENCES items(id)",
        "tags_item": "FOREIGN KEY (item_id) REFERENCES items(id) ON DELETE CASCADE",
    }
    with pytest.raises(UsageError, match=r"until the cleanup the schema stays.*cleanup"):
        await upgrade(move, app)


async def test_a_change_of_postgres_is_taken_back_before_sqlite_has_it(
    move: LiveMove, app: App, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    write_revision(app.config.parent / "migrations" / "versions", "0002", "0001", CHANGE, BACK)
    await upgrade(move, app)
    assert await upgrade(move, app, "0001", down=True) == (MEND,)
    assert (await move.resume()).copied == ()
    assert await connection.fetchval("SELECT count(*) FROM trades WHERE note IS NULL") == 300

    # What the downgrade has emptied is found by a validation, and mended by key.
    async with move.session() as server, move.session() as holder:
        live = await move.live(server)
        found = await validate(server, holder, live, move.home)
        assert len(found.differing) == 300
        assert (await repair(server, live, found.id, found.differing)).left == ()
    assert await differing(app, move) == []


async def test_an_index_leaves_the_way_back_as_it_is_after_the_switch(
    move: LiveMove, app: App, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    versions = app.config.parent / "migrations" / "versions"
    await move.switch()
    write_revision(versions, "0002", "0001", "op.create_index('i', 'trades', ['price'])", "op.drop_index('i')")
    async with move.session() as server:
        standing = await stand(server, app.config)
        refuse_untimely(standing, after_switch=True)
        await change(move.url, app.config, "head")
        (said,) = await follow_up(server, standing, move.rules)
        assert said.startswith("The columns are as they were")
        write_revision(versions, "0003", "0002", "op.add_column('items', sa.Column('x', sa.Text()))", "pass")
        await change(move.url, app.config, "head")
        (said,) = await follow_up(server, standing, move.rules)
        assert "SQLite can no longer be kept level" in said


async def test_a_revision_that_fails_leaves_foreign_keys_aside(
    move: LiveMove, app: App, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    versions = app.config.parent / "migrations" / "versions"
    write_revision(versions, "0002", "0001", "op.execute('SELECT 1 / 0')", "pass")
    with pytest.raises(Permanent, match="DivisionByZero"):
        await upgrade(move, app)
    assert await foreign_keys(connection) == {}
    app.write("DELETE FROM trades", "DELETE FROM items WHERE id < 9")
    await move.switch()
    assert await foreign_keys(connection) == {"trades_item": "FOREIGN KEY (item_id) REFERENCES items(id)"}


async def test_foreign_keys_that_a_killed_change_has_left_in_place_are_put_aside_by_the_next(
    move: LiveMove, app: App, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with move.session() as server:
        run = await live_run(server, str(app.path))
        await _put_in_place(server, run.id)
    assert await foreign_keys(connection) == {"trades_item": "FOREIGN KEY (item_id) REFERENCES items(id) NOT VALID"}
    await upgrade(move, app)
    assert await foreign_keys(connection) == {}
    await move.switch()
    assert await foreign_keys(connection) == {"trades_item": "FOREIGN KEY (item_id) REFERENCES items(id)"}


async def test_a_move_that_is_not_finished_is_left_alone(app: App, database_url: URL) -> None:
    server = await connect(database_url)
    try:
        await install(server)
        await server.execute("INSERT INTO pgferry.run (source, fingerprint) VALUES ('/app.db', '')")
        with pytest.raises(UsageError, match=r"The move of /app.db to this database is not finished.*flows migrate"):
            refuse_untimely(await stand(server, app.config), after_switch=False)
    finally:
        await server.close()
