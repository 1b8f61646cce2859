"""The row-wise ways of the contest, on the sample database: `python -m benchmarks.rowwise guide|pandas FILE`.

`guide` is what guides tell: each table exported to a JSON file, loaded again, made into ORM objects, added, one commit.
`pandas` is read_sql in chunks and to_sql with its default method. Both into tables whose indexes are in place; neither
backs up or compares anything. The target is PGFERRY_TARGET's, JSON files go to the working directory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Engine, Integer, create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pgferry.sample.models import Base, Item, Trade, WatchlistEntry

MODELS: tuple[type[Base], ...] = (Item, Trade, WatchlistEntry)
"""Each after those that it refers to."""

CHUNK = 10_000
"""Rows of a frame."""


async def guide(source: Engine, target: str) -> None:
    """Move the sample by JSON files and ORM objects."""
    with Session(source) as reader:
        files = {model: _export(reader, model) for model in MODELS}
    engine = create_async_engine(target)
    async with AsyncSession(engine) as writer:
        for model, file in files.items():
            with file.open(encoding="utf-8") as opened:
                rows = json.load(opened)
            writer.add_all([model(**_typed(model, row)) for row in rows])
            await writer.flush()
        await writer.commit()
    await engine.dispose()


def _export(reader: Session, model: type[Base]) -> Path:
    file = Path(f"{model.__tablename__}.json")
    names = [column.name for column in model.__table__.columns]
    rows = [{name: getattr(entity, name) for name in names} for entity in reader.scalars(select(model))]
    with file.open("w", encoding="utf-8") as opened:
        json.dump(rows, opened, default=_plain)
    return file


def _plain(value: object) -> str:
    return value.name if isinstance(value, Enum) else value.isoformat() if isinstance(value, datetime) else str(value)


def _typed(model: type[Base], row: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {column.name: column.type for column in model.__table__.columns}
    return {name: _value(kinds[name].python_type, value) for name, value in row.items()}


def _value(kind: type, value: Any) -> Any:
    if value is None:
        return None
    if issubclass(kind, Enum):
        return kind[value]
    if kind is datetime:
        return datetime.fromisoformat(value)
    return Decimal(value) if kind is Decimal else value


async def by_pandas(source: Engine, target: str) -> None:
    """Move the sample by data frames."""
    engine = create_async_engine(target)
    with source.connect() as reader:
        for model in MODELS:
            columns = model.__table__.columns
            # Or a column of integers with a NULL becomes one of floats, which no integer column takes. Not for all of
            # them by dtype_backend: that makes text of enums.
            types = {column.name: "Int64" for column in columns if isinstance(column.type, Integer)}
            for frame in pd.read_sql(select(model.__table__), reader, chunksize=CHUNK, dtype=types):
                async with engine.begin() as writer:
                    await writer.run_sync(_append, frame, model)
    await engine.dispose()


def _append(writer: Connection, frame: pd.DataFrame, model: type[Base]) -> None:
    types: dict[Any, Any] = {column.name: column.type for column in model.__table__.columns}
    frame.to_sql(model.__tablename__, writer, if_exists="append", index=False, dtype=types)


def main() -> None:
    """Move a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=("guide", "pandas"))
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    way = guide if options.way == "guide" else by_pandas
    asyncio.run(way(create_engine(f"sqlite:///{options.file}"), os.environ["PGFERRY_TARGET"]))


if __name__ == "__main__":
    main()
