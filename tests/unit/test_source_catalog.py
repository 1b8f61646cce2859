"""The catalog of a SQLite file is read whole, and what is no data is named."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgferry.model import Affinity, IndexTerm, SourceCatalog
from pgferry.quoting import literal, quote
from pgferry.sqlite import ddl
from pgferry.sqlite.catalog import affinity_of, read_catalog
from pgferry.sqlite.connect import open_read_only


def catalog_of(path: Path, script: str) -> SourceCatalog:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    with closing(open_read_only(path)) as connection:
        return read_catalog(connection)


# Declared type -> affinity, from https://www.sqlite.org/datatype3.html#affinity_name_examples.
AFFINITIES = {
    "INT": "INTEGER", "TINYINT": "INTEGER", "UNSIGNED BIG INT": "INTEGER", "CHARINT": "INTEGER", "POINT": "INTEGER",
    "CHARACTER(20)": "TEXT", "NVARCHAR(100)": "TEXT", "CLOB": "TEXT", "TEXT\nn": "TEXT", "": "BLOB", "BLOB": "BLOB",
    "REAL": "REAL", "DOUBLE PRECISION": "REAL", "FLOAT": "REAL", "NUMERIC": "NUMERIC", "DECIMAL(10,5)": "NUMERIC",
    "BOOLEAN": "NUMERIC", "DATETIME": "NUMERIC", "STRING": "NUMERIC", "UUID": "NUMERIC",
}  # fmt: skip


@pytest.mark.parametrize(("declared", "affinity"), AFFINITIES.items())
def test_affinity(declared: str, affinity: str, tmp_path: Path) -> None:
    assert affinity_of(declared) is Affinity(affinity)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE t (a {declared})")
        connection.execute("INSERT INTO t VALUES ('12'), (12)")
        stored = [row[0] for row in connection.execute("SELECT typeof(a) FROM t")]
    expected = {"INTEGER": ["integer"] * 2, "NUMERIC": ["integer"] * 2, "TEXT": ["text"] * 2, "REAL": ["real"] * 2}
    assert stored == expected.get(affinity, ["text", "integer"])


def test_columns_and_constraints(tmp_path: Path) -> None:
    catalog = catalog_of(
        tmp_path / "a.db",
        """
        CREATE TABLE p (id INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT UNIQUE);
        CREATE TABLE t ( -- a comment with ) and 'quotes
            [id] INTEGER NOT NULL PRIMARY KEY, /* , */ `n``ame` TEXT COLLATE NoCase DEFAULT 'it''s, (ok)',
            'q' DECIMAL(10, 2) DEFAULT (1 + (2)) CHECK (q > (1) /* ) */), p INTEGER
              CONSTRAINT fk REFERENCES p ON DELETE SET NULL ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
            g TEXT GENERATED ALWAYS AS (`n``ame` || ')') STORED, v AS (id * 2), e INT DEFAULT 1.5e-3,
            CONSTRAINT one CHECK (id <> 0) CONSTRAINT two UNIQUE (p, e)
            FOREIGN KEY (q) REFERENCES p (code) NOT DEFERRABLE
        );
        """,
    )
    table = catalog.table("t")
    assert [column.name for column in table.columns] == ["id", "n`ame", "q", "p", "g", "v", "e"]
    assert table.checks == ("q > (1)", "id <> 0")
    assert table.column("n`ame").collation == "NOCASE"
    assert table.column("n`ame").default == "'it''s, (ok)'"
    assert (table.column("g").generated, table.column("g").generated_expression) == ("stored", "`n``ame` || ')'")
    assert (table.column("v").generated, table.column("v").generated_expression) == ("virtual", "id * 2")
    first, second = table.foreign_keys
    assert (first.columns, first.parent, first.parent_columns) == (("p",), "p", ())
    assert (first.on_delete, first.on_update, first.deferrable, first.initially_deferred) == (
        "SET NULL", "CASCADE", True, True,
    )  # fmt: skip
    assert (second.columns, second.parent_columns, second.deferrable) == (("q",), ("code",), False)
    assert catalog.table("p").autoincrement
    assert not table.autoincrement


def test_keys_and_rowids(tmp_path: Path) -> None:
    catalog = catalog_of(
        tmp_path / "a.db",
        """
        CREATE TABLE plain (a);
        CREATE TABLE alias (id INTEGER PRIMARY KEY, "RowId" TEXT);
        CREATE TABLE by_list (id integer, PRIMARY KEY (id DESC));
        CREATE TABLE quirk (id INTEGER PRIMARY KEY DESC);
        CREATE TABLE not_alias (id INT PRIMARY KEY);
        CREATE TABLE pair (b, a, PRIMARY KEY (a, b)) WITHOUT ROWID;
        CREATE TABLE hidden (rowid, _rowid_, OID);
        CREATE TABLE hidden_but_key (rowid, _rowid_ INTEGER PRIMARY KEY, oid);
        CREATE TABLE strict_any (a ANY, i INT) STRICT;
        """,
    )
    found = {table.name: (table.rowid_column, table.rowid_name, table.key) for table in catalog.tables}
    assert found == {
        "plain": (None, "rowid", ()),
        "alias": ("id", "_rowid_", ("id",)),
        "by_list": ("id", "rowid", ("id",)),
        "quirk": (None, "rowid", ("id",)),
        "not_alias": (None, "rowid", ("id",)),
        "pair": (None, None, ("a", "b")),
        "hidden": (None, None, ()),
        "hidden_but_key": ("_rowid_", "_rowid_", ("_rowid_",)),
        "strict_any": (None, "rowid", ()),
    }
    assert catalog.table("strict_any").strict
    assert catalog.table("strict_any").column("a").affinity is Affinity.BLOB


def test_indexes(tmp_path: Path) -> None:
    catalog = catalog_of(
        tmp_path / "a.db",
        """
        CREATE TABLE t (a TEXT, b INT, UNIQUE (b, a));
        CREATE UNIQUE INDEX i1 ON t (a COLLATE NOCASE DESC, lower(a), b) WHERE b > 0 AND a <> 'on (';
        """,
    )
    made = {index.name: index for index in catalog.table("t").indexes}
    assert made["i1"].terms == (IndexTerm("a", True, "NOCASE"), IndexTerm(None), IndexTerm("b"))
    assert (made["i1"].unique, made["i1"].partial, made["i1"].origin) == (True, True, "c")
    automatic = made["sqlite_autoindex_t_1"]
    assert (automatic.origin, automatic.sql, [term.column for term in automatic.terms]) == ("u", None, ["b", "a"])
    assert ddl.parse_index(made["i1"].sql or "") == ddl.IndexText(("a", "lower(a)", "b"), "b > 0 AND a <> 'on ('")


def test_what_is_no_data_is_named(tmp_path: Path) -> None:
    catalog = catalog_of(
        tmp_path / "a.db",
        """
        CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT);
        INSERT INTO t VALUES (41); DELETE FROM t;
        CREATE VIRTUAL TABLE f USING fts5(body);
        CREATE TABLE f_notes (a);
        CREATE VIEW good AS SELECT id FROM t;
        CREATE VIEW bad AS SELECT missing FROM t;
        CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END;
        """,
    )
    assert [table.name for table in catalog.tables] == ["t", "f_notes"]
    assert [view.name for view in catalog.views] == ["good"]
    assert [(trigger.name, trigger.table) for trigger in catalog.triggers] == [("tr", "t")]
    reasons = {item.name: item.reason for item in catalog.left_out}
    assert "module fts5" in reasons["f"]
    assert reasons["f_data"] == "shadow table of the virtual table f"
    assert "bookkeeping" in reasons["sqlite_sequence"]
    assert "does not resolve" in reasons["bad"]
    assert catalog.sequences == {"t": 41}


SHADOWS = {
    # A virtual table, the application's own tables with names like its shadows, and its shadows.
    "CREATE VIRTUAL TABLE email USING fts5(body, content='email_content')": (
        ["email_content", "email_stat"],
        ["email_config", "email_data", "email_docsize", "email_idx"],
    ),
    'CREATE VIRTUAL TABLE email USING fts4(body, CONTENT="Email_Content")': (
        ["email_content", "email_config", "email_data", "email_parent"],
        ["email_docsize", "email_segdir", "email_segments", "email_stat"],
    ),
    "CREATE VIRTUAL TABLE email USING fts5(body, content = '', columnsize=0)": (
        ["email_content", "email_docsize"],
        ["email_config", "email_data", "email_idx"],
    ),
    "CREATE VIRTUAL TABLE email USING fts3(content, body)": (
        ["email_docsize", "email_stat", "email_idx"],
        ["email_content", "email_segdir", "email_segments"],
    ),
    "CREATE VIRTUAL TABLE email USING fts5(body, cont=letters_data)": (
        ["email_content", "letters_data"],
        ["email_config", "email_data", "email_docsize", "email_idx"],
    ),
    "CREATE VIRTUAL TABLE email USING rtree(id, x0, x1)": (
        ["email_data", "email_stat", "email_content"],
        ["email_node", "email_parent", "email_rowid"],
    ),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("virtual", "tables"), SHADOWS.items())
def test_a_table_is_a_shadow_only_of_the_module_that_would_have_made_it(
    tmp_path: Path, virtual: str, tables: tuple[list[str], list[str]], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, shadow = tables
    script = "".join(f"CREATE TABLE {name} (a, body);" for name in mine)
    if not known:
        # SQLite without the module calls nothing a shadow.
        monkeypatch.setattr("pgferry.sqlite.shadows._KNOWN_MODULE", "SELECT 1 WHERE ? = ''")
        monkeypatch.setattr("pgferry.sqlite.catalog._TABLES", LISTED_WITHOUT_MODULES)
    catalog = catalog_of(tmp_path / "a.db", f"{script}{virtual}; VACUUM;")
    assert sorted(table.name for table in catalog.tables) == sorted(mine)
    assert sorted(item.name for item in catalog.left_out if item.kind == "shadow table") == shadow


LISTED_WITHOUT_MODULES = (
    "SELECT name, replace(type, 'shadow', 'table'), wr, strict FROM pragma_table_list WHERE schema = 'main'"
)


def test_a_virtual_table_that_holds_its_own_text_is_not_called_empty(tmp_path: Path) -> None:
    catalog = catalog_of(
        tmp_path / "a.db",
        """
        CREATE TABLE letters (body);
        CREATE VIRTUAL TABLE whole USING fts5(body);
        CREATE VIRTUAL TABLE outer_text USING fts4(body, content="letters");
        CREATE VIRTUAL TABLE no_text USING fts5(body, content='');
        """,
    )
    reasons = {item.name: item.reason.partition(": ")[2] for item in catalog.left_out if item.kind == "virtual table"}
    assert reasons == {
        "whole": "what it holds lies in its shadow tables alone; copy it to an ordinary table if it must move",
        "outer_text": "an index of what letters holds",
        "no_text": "a search structure without a text of its own",
    }


def test_a_table_is_ours_only_by_the_very_names_that_we_make(tmp_path: Path) -> None:
    catalog = catalog_of(
        tmp_path / "a.db",
        """
        CREATE TABLE _pgferry_notes (a); CREATE TABLE _pgferry_new_idea (a); CREATE TABLE _pgferry_1_insert (a);
        CREATE TABLE _pgferry_outbox (a); CREATE TABLE _pgferry_new_12 (a);
        CREATE TRIGGER _pgferry_mine AFTER INSERT ON _pgferry_notes BEGIN SELECT 1; END;
        CREATE TRIGGER _pgferry_1_replace_update AFTER INSERT ON _pgferry_notes BEGIN SELECT 1; END;
        """,
    )
    assert [table.name for table in catalog.tables] == ["_pgferry_notes", "_pgferry_new_idea", "_pgferry_1_insert"]
    assert [item.name for item in catalog.left_out] == ["_pgferry_outbox", "_pgferry_new_12"]
    assert [trigger.name for trigger in catalog.triggers] == ["_pgferry_mine"]


def damaged(path: Path, script: str, *updates: tuple[str, object]) -> SourceCatalog:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        connection.execute("PRAGMA writable_schema=ON")
        for statement, value in updates:
            connection.execute(statement, (value,))
        connection.commit()
    with closing(open_read_only(path)) as connection:
        return read_catalog(connection)


def test_malformed_entries_do_not_stop_the_rest(tmp_path: Path) -> None:
    catalog = damaged(
        tmp_path / "a.db",
        "CREATE TABLE ok (a); CREATE TABLE broken (a); CREATE TABLE virtual_one (a);",
        ("UPDATE sqlite_schema SET sql = ? WHERE name = 'broken'", "CREATE TABLE broken ((("),
        (
            "UPDATE sqlite_schema SET rootpage = 0, sql = ? WHERE name = 'virtual_one'",
            "CREATE VIRTUAL TABLE virtual_one USING no_such_module(a)",
        ),
    )
    assert [table.name for table in catalog.tables] == ["ok"]
    reasons = {item.name: item.reason for item in catalog.left_out}
    assert "malformed" in reasons["broken"]
    assert "no_such_module" in reasons["virtual_one"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    catalog = damaged(
        tmp_path / "a.db",
        "CREATE TABLE ok (a /* x */); CREATE TABLE caf_ (a); CREATE TABLE comment (a TEXT /* caf_ */);",
        (
            "UPDATE sqlite_schema SET (name, tbl_name, sql) = (SELECT n, n, replace(sql, 'caf_', n)"
            " FROM (SELECT CAST(? AS TEXT) AS n)) WHERE name = 'caf_'",
            b"caf\xe9",
        ),
        ("UPDATE sqlite_schema SET sql = replace(sql, 'caf_', CAST(? AS TEXT)) WHERE name = 'comment'", b"caf\xe9"),
    )
    assert [table.name for table in catalog.tables] == ["ok", "comment"]
    assert [(item.name, item.reason) for item in catalog.left_out] == [
        ("caf\\xe9", "its name is no valid text, so no statement can name it")
    ]


def test_a_column_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("mine", 1, lambda value: value, deterministic=True)
        connection.execute("CREATE TABLE t (a, b AS (mine(a)))")
    with closing(open_read_only(path)) as connection:
        catalog = read_catalog(connection)
    assert [column.name for column in catalog.table("t").columns] == ["a"]
    assert [(item.kind, item.name, item.table) for item in catalog.left_out] == [("column", "b", "t")]


def test_only_generated_columns_that_fail_on_some_row_are_left_out(tmp_path: Path) -> None:
    catalog = catalog_of(
        tmp_path / "a.db",
        """
        CREATE TABLE t (id INTEGER PRIMARY KEY, doc TEXT, long TEXT AS (upper(doc)) STORED);
        INSERT INTO t (doc) VALUES ('{"a": 1}'), ('{"a": '), (NULL);
        ALTER TABLE t ADD COLUMN a AS (json_extract(doc, '$.a'));
        ALTER TABLE t ADD COLUMN b AS (doc ->> '$.a');
        ALTER TABLE t ADD COLUMN valid AS (json_valid(doc));
        """,
    )
    assert [column.name for column in catalog.table("t").columns] == ["id", "doc", "long", "valid"]
    assert [(item.kind, item.name, item.table, item.reason) for item in catalog.left_out] == [
        ("column", "a", "t", "it cannot be reckoned for every row: malformed JSON"),
        ("column", "b", "t", "it cannot be reckoned for every row: malformed JSON"),
    ]


def test_an_empty_file(tmp_path: Path) -> None:
    assert catalog_of(tmp_path / "a.db", "").tables == ()


names = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(deadline=None, max_examples=50)
@given(table=names, column=names, default=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_any_name_is_read_back(table: str, column: str, default: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if table.lower().startswith("sqlite_"):
        return
    path = tmp_path_factory.mktemp("names") / "a.db"
    catalog = catalog_of(
        path,
        f"CREATE TABLE {quote(table)} ({quote(column)} TEXT DEFAULT {literal(default)} CHECK ({quote(column)} <> 'x'));"
        f"CREATE INDEX i ON {quote(table)} ({quote(column)} DESC);",
    )
    (read,) = catalog.tables
    assert (read.name, read.columns[0].name, read.columns[0].default) == (table, column, literal(default))
    assert read.checks == (f"{quote(column)} <> 'x'",)
    assert read.indexes[0].terms == (IndexTerm(column, True),)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_cut_into_tokens(text: str) -> None:
    found = ddl.tokens(text)
    assert all(text[token.start : token.end] == token.text for token in found)
    assert all(first.end <= second.start for first, second in pairwise(found))
    ddl.parse_table(text)
    ddl.parse_index(text)
    ddl.parse_view(text)
