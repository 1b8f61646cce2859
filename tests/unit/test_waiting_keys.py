"""A foreign key that waits in the ledger is read from its definition, whatever its names."""

from __future__ import annotations

import pytest

from pgferry.errors import Permanent
from pgferry.postgres.deferred import Deferred
from pgferry.postgres.definitions import Kind, Stage
from pgferry.postgres.orphans import ForeignKey
from pgferry.postgres.waiting_keys import read_definition
from pgferry.quoting import qualified, quote


def waiting(definition: str, table: str = "trades", name: str = "key") -> Deferred:
    """Return a foreign key as the ledger has it."""
    whole = f"ALTER TABLE {qualified('public', table)} ADD CONSTRAINT {quote(name)} {definition} NOT VALID"
    return Deferred(1, 1, "public", table, Kind.FOREIGN_KEY, name, whole, Stage.FOREIGN_KEY)


READ = {
    "FOREIGN KEY (item_id) REFERENCES public.items(id)": (("item_id",), "public", "items", ("id",), False),
    "FOREIGN KEY (a, b) REFERENCES public.items(c, d) MATCH FULL ON UPDATE CASCADE DEFERRABLE":
        (("a", "b"), "public", "items", ("c", "d"), True),
    'FOREIGN KEY ("Item, (Id)", "a""b") REFERENCES "My.Schema"."The ""Items"""("x y", é) ON DELETE SET NULL ("a""b")':
        (("Item, (Id)", 'a"b'), "My.Schema", 'The "Items"', ("x y", "é"), False),
}  # fmt: skip


@pytest.mark.parametrize("definition", READ)
def test_columns_and_parent_are_read(definition: str) -> None:
    columns, schema, parent, parent_columns, full = READ[definition]
    name = "FOREIGN KEY (x) REFERENCES y.z(w)"
    assert read_definition(waiting(definition, 'a "table"', name)) == ForeignKey(
        "public", 'a "table"', columns, schema, parent, parent_columns, full
    )


def test_what_cannot_be_read_is_said() -> None:
    with pytest.raises(Permanent, match="cannot be read"):
        read_definition(waiting("FOREIGN KEY (id, PERIOD valid) REFERENCES public.items(id, PERIOD valid)"))
