"""Named static SQL, kept in `.sql` files beside the modules so that it can be read and tried in psql."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)[^\n]*\n", re.MULTILINE)


@cache
def statements(stem: str) -> Mapping[str, str]:
    """Return the statements of `sql/<stem>.sql` by name. Each one follows a line `-- name: <name>`."""
    parts = _NAME.split(script(stem))
    return MappingProxyType({name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)})


def script(stem: str) -> str:
    """Return the whole text of `sql/<stem>.sql`."""
    return resources.files("pgferry.postgres").joinpath("sql", f"{stem}.sql").read_text("utf-8")
