"""Files that nobody has and everybody may have: each moves whole, or keeps aside by name what cannot move."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pgferry.quoting import quote
from tests.acceptance.corpus_compare import compare
from tests.acceptance.hostile_files import Move, Server, kept, made, move, types
from tests.acceptance.independent import Ways, differences
from tests.acceptance.library_move import plan_and_move

__all__ = ["move"]


# ---------------------------------------------------------------- tables


async def test_generated_columns_of_a_strict_table(move: Move) -> None:
    found, plan = await move(
        """CREATE TABLE g (
               a INTEGER NOT NULL, b INT, name TEXT, r REAL, raw BLOB, x ANY,
               total INTEGER GENERATED ALWAYS AS (a * b) STORED,
               shout TEXT AS (upper(name)) VIRTUAL,
               odd INTEGER AS (a % 2)
           ) STRICT;
           INSERT INTO g (a, b, name, r, raw, x)
           VALUES (2000000000, 3, 'é x', 1.5, x'00', 1),
                  (-3, NULL, NULL, -0.0, NULL, 'text'), (1, 1, '', 1, x'', x'ff');
        """
    )
    assert kept(found) == {}
    assert {c.name for c in plan.table("g").columns if c.generated} == {"total", "shout"}
    assert [item.name for item in plan.not_carried if item.kind == "generated"] == ["odd"]


async def test_virtual_columns_are_reckoned_by_one_sqlite(move: Move) -> None:
    # The digits that SQLite writes of a double differ from version to version.
    found, plan = await move(
        """CREATE TABLE v (id INTEGER PRIMARY KEY DEFAULT 5, x REAL, s TEXT AS (upper(x)), t TEXT AS (x || '') STORED);
           INSERT INTO v (x) VALUES (1.3633840256501988e+166), (5e-324), (0.1), (1e16), (NULL);"""
    )
    assert kept(found) == {}
    assert [(item.kind, item.name) for item in plan.not_carried] == [
        ("default", "id"), ("generated", "s"), ("generated", "t")
    ]  # fmt: skip


async def test_expressions_on_numbers_that_become_text(move: Move) -> None:
    _, plan = await move(
        """CREATE TABLE t (g GUID, u TEXT AS (upper(g)), CHECK (length(g) < 99));
           CREATE INDEX by_length ON t (length(g));
           INSERT INTO t VALUES (1e999), (5e-324), (0.1), (1e16);"""
    )
    assert types(plan, "t")["g"] == "text"
    assert {item.kind for item in plan.not_carried} == {"generated", "check", "index"}


async def test_a_unique_constraint_that_repeats_the_key(move: Move) -> None:
    _, plan = await move("CREATE TABLE t (id INTEGER PRIMARY KEY UNIQUE, v); INSERT INTO t VALUES (1, 2)")
    assert [(item.kind, item.reason) for item in plan.not_carried] == [("unique", "the primary key says the same")]


async def test_without_rowid_and_keys_of_text(move: Move) -> None:
    keys = ["", "a", "A", "ä", "日本", "a b", "a\tb", "z" * 500, "😀", "a%", "'", '"', "10", "9"]
    found, plan = await move(
        """CREATE TABLE k (k TEXT PRIMARY KEY, v INTEGER) WITHOUT ROWID;
           CREATE TABLE two (a TEXT, b INTEGER, v, PRIMARY KEY (b DESC, a)) WITHOUT ROWID;
           CREATE TABLE blobs (k BLOB PRIMARY KEY, v) WITHOUT ROWID;
           CREATE TABLE mixed (k PRIMARY KEY, v) WITHOUT ROWID;
           CREATE TABLE folded (k TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID;""",
        {
            "k": [(key, n) for n, key in enumerate(keys)],
            "two": [(key, n % 3, n) for n, key in enumerate(keys)],
            "blobs": [(key.encode(), n) for n, key in enumerate(keys)],
            "mixed": [(key, n) for n, key in enumerate([*keys, *map(str.encode, keys), 1, 2.5, -7])],
            "folded": [(key, n) for n, key in enumerate(keys) if key != "A"],
        },
        chunk_rows=3,
    )
    assert kept(found) == {}
    assert all(plan.table(name).key for name in ("k", "two", "blobs"))


async def test_keys_of_undecodable_text(move: Move) -> None:
    script = "CREATE TABLE k (k TEXT PRIMARY KEY, v INTEGER) WITHOUT ROWID;"
    script += "CREATE TABLE f (k TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID;"
    script += "".join(f"INSERT INTO k VALUES (CAST(x'{n:02x}ff{n:02x}' AS TEXT), {n});" for n in range(1, 60))
    script += "".join(f"INSERT INTO f VALUES ('{n:04}', '{n}');" for n in range(300))
    script += "INSERT INTO f VALUES (CAST(x'30303031ff' AS TEXT), 'x'), (CAST(x'fffe' AS TEXT), 'y')"
    found, _ = await move(script, chunk_rows=1)
    assert found["k"].rows == 59
    assert len(kept(found)["f"]) == 2


async def test_keys_with_a_nul(move: Move) -> None:
    found, _ = await move(
        "CREATE TABLE k (k TEXT PRIMARY KEY, v INTEGER) WITHOUT ROWID",
        {"k": [("a", 0), ("a\x00", 1), ("a\x00b", 2), ("\x00", 3), *((f"b{n}", n) for n in range(400))]},
        chunk_rows=1,
    )
    assert len(kept(found)["k"]) == 3


async def test_columns_that_hide_the_rowid(move: Move) -> None:
    found, _ = await move(
        """CREATE TABLE one (rowid TEXT, v);
           CREATE TABLE two (rowid, "_ROWID_" INTEGER, v TEXT);
           CREATE TABLE three (rowid, _rowid_, oid, v TEXT);
           CREATE TABLE alias (rowid TEXT, _rowid_ TEXT, oid INTEGER PRIMARY KEY, v);
           CREATE TABLE desc_key (id INTEGER PRIMARY KEY DESC, v);""",
        {
            "one": [(f"t{n % 3}", n) for n in range(20)],
            "two": [(n % 2, n % 3, "a\x00" if n == 150 else "b") for n in range(300)],
            "three": [(n % 2, n % 3, n % 4, "a\x00" if n == 150 else "b") for n in range(300)],
            "alias": [("x", "y", n * 7, n) for n in range(20)],
            "desc_key": [(n * n, n) for n in range(20)],
        },
        chunk_rows=6,
    )
    assert {name: len(reasons) for name, reasons in kept(found).items()} == {"two": 1, "three": 1}


async def test_rowids_with_wide_gaps(move: Move) -> None:
    rowids = [-(2**63), -5, 0, 1, 2, 7, 10**12, 2**63 - 1]
    found, _ = await move(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": [(n, str(n)) for n in rowids]}, chunk_rows=2
    )
    assert kept(found) == {}


async def test_tables_of_200_columns(move: Move) -> None:
    columns = ", ".join(f"c{n} {('INTEGER', 'TEXT', 'REAL', 'BLOB', '')[n % 5]}" for n in range(200))
    row = [(n, f"t{n}", n / 7, b"x", None)[n % 5] for n in range(200)]
    dirty = ["x" if n == 190 else value for n, value in enumerate(row)]
    found, _ = await move(f"CREATE TABLE t ({columns})", {"t": [row] * 300 + [dirty]}, chunk_rows=100)
    assert kept(found) == {}


async def test_a_thousand_tables(move: Move) -> None:
    script = "".join(
        f"CREATE TABLE t{n} (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t{n} VALUES ({n}, 'x');" for n in range(1000)
    )
    found, _ = await move(f"BEGIN; {script} COMMIT")
    assert len(found) == 1000


async def test_empty_tables_and_an_empty_database(move: Move) -> None:
    found, plan = await move(
        """CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, t TEXT, d DATETIME, b BOOLEAN);
           CREATE TABLE b (k TEXT PRIMARY KEY) WITHOUT ROWID;
           CREATE TABLE c (a, b REFERENCES b);
           INSERT INTO a VALUES (77, '', '', 0); DELETE FROM a;"""
    )
    assert {table.rows for table in found.values()} == {0}
    assert types(plan, "a")["d"] == "timestamp without time zone"


@pytest.mark.parametrize("content", [b"", None], ids=["no bytes", "no tables"])
async def test_a_file_without_a_table(tmp_path: Path, database_url: URL, content: bytes | None) -> None:
    source = tmp_path / "empty.db"
    if content is None:
        made(source, "CREATE TABLE t (a); DROP TABLE t")
    else:
        source.write_bytes(content)
    moved = await plan_and_move(source, database_url, tmp_path / "home")
    assert moved.report.tables == ()
    assert moved.report.complete


NAMES = [
    "select", "Order", 'quo"te', "apo'strophe", "new\nline", "back\\slash", "😀", "日本語", "a b", "a.b", "a-b", "%s",
    "x" * 100, "x" * 99 + "y", "é" * 50, "", "pgferry", "alembic_version_", "Ünïcode", ":name", "$1", "{x}",
]  # fmt: skip


async def test_names_of_all_kinds(move: Move, connection: Server) -> None:
    columns = ", ".join(f"{quote(name)} TEXT" for name in [*NAMES, "xmin", "ctid", "oid", "tableoid", "cmax"])
    values = ", ".join(["'v'"] * (len(NAMES) + 5))
    script = "".join(
        f"CREATE TABLE {quote(name)} ({columns}, {quote(name + '!')} INTEGER PRIMARY KEY);"
        f"INSERT INTO {quote(name)} VALUES ({values}, {n}), ({values}, {n + 100});"
        for n, name in enumerate(NAMES)
    )
    found, _ = await move(script, chunk_rows=1)
    assert len(found) == len(NAMES)
    assert kept(found) == {}
    renamed = await connection.fetch("SELECT source_name, target_name FROM pgferry.rename")
    assert {"xmin", "x" * 100} <= {row["source_name"] for row in renamed}
    assert all(len(row["target_name"].encode()) <= 63 for row in renamed)


# ---------------------------------------------------------------- keys, constraints, views


async def test_orphans_and_collisions(move: Move, connection: Server) -> None:
    found, plan = await move(
        """CREATE TABLE parent (id INTEGER PRIMARY KEY, code TEXT UNIQUE);
           CREATE TABLE child (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent, c TEXT REFERENCES parent (code));
           CREATE TABLE folded (name TEXT UNIQUE COLLATE NOCASE, mail TEXT, plain TEXT UNIQUE);
           CREATE UNIQUE INDEX by_mail ON folded (mail COLLATE NOCASE);
           CREATE TABLE nulls (a TEXT PRIMARY KEY, b INTEGER NOT NULL);
           CREATE TABLE one_and_one (v UNIQUE);""",
        {
            "parent": [(n, f"c{n}") for n in range(5)],
            "child": [(n, n, f"c{n % 7}") for n in range(20)],
            "folded": [("a", "X@y", "a"), ("b", "é@y", "A"), ("É", "É@y", "É"), ("é", None, "é")],
            "nulls": [(None, 1), (None, 2), ("x", 3)],
            "one_and_one": [(1,), ("1",), (b"1",), (1.5,), ("1.5",)],
        },
        chunk_rows=3,
    )
    assert kept(found) == {}
    assert {key.orphans for key in plan.table("child").foreign_keys} == {15, 5}
    valid = "SELECT convalidated FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
    assert [row["convalidated"] for row in await connection.fetch(valid)] == [False, False]
    reasons = {(item.kind, item.table): item.reason for item in plan.not_carried}
    assert "NULL in a" in reasons["primary key", "nulls"]
    assert "apart by their class" in reasons["unique", "one_and_one"]


async def test_views_whole_broken_and_untranslatable(move: Move, connection: Server) -> None:
    _, plan = await move(
        """CREATE TABLE t (id INTEGER PRIMARY KEY, "two words" TEXT, n INTEGER);
           INSERT INTO t VALUES (1, 'a', 5), (2, 'b', NULL);
           CREATE VIEW good AS SELECT id, "two words" AS w FROM t WHERE n > 1;
           CREATE VIEW over AS SELECT count(*) AS c FROM good;
           CREATE VIEW broken AS SELECT nowhere FROM t;
           CREATE VIEW lost AS SELECT * FROM missing;
           CREATE VIEW odd AS SELECT julianday(n) AS j FROM t;
           CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END;
           CREATE VIRTUAL TABLE words USING fts5(body);
           INSERT INTO words VALUES ('some text');
           CREATE VIRTUAL TABLE places USING rtree(id, x0, x1);"""
    )
    assert await connection.fetchval("SELECT c FROM over") == 1
    left = {item.name: item.reason for item in plan.not_carried}
    assert {"broken", "lost", "odd", "tr", "words", "words_data", "places", "places_node"} <= set(left)
    assert all(left.values())


async def test_what_only_looks_like_a_shadow_moves_and_what_is_one_is_told(tmp_path: Path, database_url: URL) -> None:
    script = """
        CREATE TABLE email_content (id INTEGER PRIMARY KEY, body TEXT);
        INSERT INTO email_content VALUES (1, 'first'), (2, 'second');
        CREATE VIRTUAL TABLE email USING fts5(body, content='email_content', content_rowid='id');
        CREATE VIRTUAL TABLE app USING fts4(body);
        INSERT INTO app VALUES ('found nowhere else');
        CREATE TABLE app_config (name TEXT PRIMARY KEY, value TEXT);
        INSERT INTO app_config VALUES ('colour', 'blue');
        CREATE VIRTUAL TABLE geo USING rtree(id, x0, x1);
        CREATE TABLE geo_data (x INTEGER); INSERT INTO geo_data VALUES (7);
        CREATE TABLE _pgferry_notes (x INTEGER); INSERT INTO _pgferry_notes VALUES (8);"""
    source = made(tmp_path / "made.db", script)
    moved = await plan_and_move(source, database_url, tmp_path / "home")
    found = await compare(source, database_url)
    assert {name: (table.loaded, table.wrong) for name, table in found.items()} == {
        "email_content": (2, ()), "app_config": (1, ()), "geo_data": (1, ()), "_pgferry_notes": (1, ())
    }  # fmt: skip
    notes = [note for note in moved.report.notes if note.startswith("not moved: ")]
    assert len(notes) == 6
    for said in (
        "virtual table email: a virtual table of module fts5: an index of what email_content holds",
        "virtual table app: a virtual table of module fts4: what it holds lies in its shadow tables alone",
        "shadow tables app_content, app_segments, app_segdir, app_docsize, app_stat: shadow table of the virtual",
    ):
        assert any(said in note for note in notes), notes


def by_length(first: str, second: str) -> int:
    """An order that is neither that of bytes nor that of any collation of SQLite's own; it finds no two texts equal."""
    return ((len(first), first[::-1]) < (len(second), second[::-1]) and -1) or (first != second) * 1


async def test_collations_of_the_application_s_own(tmp_path: Path, database_url: URL) -> None:
    source = tmp_path / "made.db"
    with closing(sqlite3.connect(source)) as file:
        file.create_collation("ICU", by_length)
        file.executescript(
            """CREATE TABLE u (id INTEGER PRIMARY KEY, n TEXT COLLATE ICU UNIQUE, i INTEGER COLLATE ICU, m TEXT);
               CREATE INDEX by_m ON u (m COLLATE Icu, id);
               CREATE TABLE k (k TEXT COLLATE ICU PRIMARY KEY, v TEXT);
               CREATE TABLE w (k TEXT COLLATE ICU PRIMARY KEY, v TEXT) WITHOUT ROWID;
               CREATE TABLE z (k TEXT, v TEXT, PRIMARY KEY (k COLLATE ICU)) WITHOUT ROWID;
               CREATE TABLE narrow (m TEXT COLLATE ICU); CREATE INDEX covering ON narrow (m);"""
        )
        texts = [f"{'x' * (n % 7)}{n * 7919 % 400}" for n in range(400)]
        odd = {5: "a\x00b"}
        for n, text in enumerate(texts):
            file.execute("INSERT INTO u VALUES (?, ?, ?, ?)", (n, text, n % 2, text))
            file.execute("INSERT INTO k VALUES (?, ?)", (text, odd.get(n, text)))
            file.execute("INSERT INTO w VALUES (?, ?)", (text, odd.get(n, text)))
            file.execute("INSERT INTO z VALUES (?, ?)", (text, text))
            file.execute("INSERT INTO narrow VALUES (?)", (text,))
        file.commit()
    moved = await plan_and_move(source, database_url, tmp_path / "home", chunk_rows=60)
    assert moved.report.verified
    assert {t.table: (t.source_rows, t.loaded, t.quarantined, t.closed) for t in moved.report.tables} == {
        "u": (400, 400, 0, True), "k": (400, 399, 1, True), "w": (400, 399, 1, True), "z": (400, 400, 0, True),
        "narrow": (400, 400, 0, True),
    }  # fmt: skip
    # Read in the order of the file, no statement of this comparison needs the collation's index.
    found = await compare(copy_without_collations(source, tmp_path / "plain.db"), database_url)
    assert [text for table in found.values() for text in table.wrong] == []
    reasons = {(item.table, item.name): item.reason for item in moved.plan.not_carried}
    assert "the application's own" in reasons["u", "by_m"]
    assert "the application's own" in reasons["u", "sqlite_autoindex_u_1"]
    assert any("ICU is the application's own" in note for note in moved.plan.table("u").column("n").notes)
    complaints = [note for note in moved.report.notes if "complaints" in note]
    assert complaints == []
    assert any("was not checked" in note and "by_m" in note for note in moved.report.notes)


def copy_without_collations(source: Path, copy: Path) -> Path:
    """Write the same rows, of the same rowids, to tables without the collation."""
    with closing(sqlite3.connect(source)) as file, closing(sqlite3.connect(copy)) as plain:
        file.create_collation("ICU", by_length)
        for name, sql in file.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY rowid"):
            plain.execute(sql.replace("COLLATE ICU", ""))
            rowid = "" if "WITHOUT ROWID" in sql else "rowid, "
            columns = ", ".join(row[1] for row in file.execute(f"PRAGMA table_info({name})"))
            for row in file.execute(f"SELECT {rowid}{columns} FROM {name}"):
                plain.execute(f"INSERT INTO {name} ({rowid}{columns}) VALUES ({', '.join('?' * len(row))})", row)
        plain.commit()
    return copy


async def test_a_generated_column_that_fails_on_one_row(tmp_path: Path, database_url: URL) -> None:
    script = """
        CREATE TABLE t (id INTEGER PRIMARY KEY, doc TEXT);
        INSERT INTO t (doc) VALUES ('{"a": 1}'), ('{"a": '), (NULL);
        ALTER TABLE t ADD COLUMN a AS (json_extract(doc, '$.a'));"""
    source = made(tmp_path / "made.db", script)
    moved = await plan_and_move(source, database_url, tmp_path / "home")
    assert moved.report.complete
    assert await differences(source, database_url, Ways(left_out=("t.a",))) == []
    assert [(item.kind, item.name) for item in moved.plan.not_carried] == [("column", "a")]
    assert any("column t.a" in note and "malformed JSON" in note for note in moved.report.notes)


async def test_a_table_of_1200_columns(move: Move) -> None:
    kinds = ("INTEGER", "TEXT", "REAL", "")
    columns = ", ".join(f"c{n} {kinds[n % 4]}" for n in range(1200))
    sparse = [
        [(row + n) % 100 if (row + n) % 9 == 0 and n % 4 != 1 else "t" if row == n % 50 else None for n in range(1200)]
        for row in range(50)
    ]
    found, plan = await move(
        f"CREATE TABLE wide ({columns}); CREATE INDEX few ON wide (c1, c2); CREATE TABLE heavy ({columns});",
        {"wide": sparse, "heavy": [[None] * 1198 + ["x" * 20_000, n] for n in range(30)]},
        chunk_rows=20,
    )
    assert kept(found) == {}
    assert len(plan.table("wide").columns) == 1200


# ---------------------------------------------------------------- size

BLOB = 200 * 1024 * 1024

MOVE_ALONE = """
import asyncio, resource, sys
from pathlib import Path
from pgferry.settings import parse_target
from tests.acceptance.independent import Ways, differences
from tests.acceptance.library_move import plan_and_move
moved = asyncio.run(plan_and_move(Path(sys.argv[1]), parse_target(sys.stdin.read()), Path(sys.argv[2])))
assert moved.report.complete
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


async def test_a_blob_of_200_megabytes(tmp_path: Path, database_url: URL, connection: Server) -> None:
    script = f"CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB); INSERT INTO t VALUES (1, zeroblob({BLOB})), (2, x'01')"
    source = made(tmp_path / "large.db", script)
    # In a process of its own: the peak of this one may be another test's.
    done = subprocess.run(
        [sys.executable, "-c", MOVE_ALONE, source, tmp_path / "home"],
        input=database_url.render_as_string(hide_password=False),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2048, "the peak of memory in MiB; one value takes its size a few times over"
    rows = await connection.fetch("SELECT id, length(b) AS n, md5(b) AS sum FROM t ORDER BY id")
    with closing(sqlite3.connect(source)) as file:
        file.create_function("md5", 1, lambda raw: __import__("hashlib").md5(raw).hexdigest())
        expected = file.execute("SELECT id, length(b), md5(b) FROM t ORDER BY id").fetchall()
    assert [tuple(row) for row in rows] == expected
