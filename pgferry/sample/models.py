"""The SQLAlchemy models of the sample application, the OSRS Tool Hub: a price tracker for the items of a game.

They are what an application that outgrew SQLite usually has: a column with a reserved name (`limit`), a table that
refers to itself, enums stored by name, naive datetimes, JSON, booleans and nullable integers. The Alembic revisions of
this project make exactly these tables (`alembic check` finds no difference).
"""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Without names of our own each database invents its own, and Alembic could not drop what it made.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite numbers rows by itself only where the declared type is exactly INTEGER.
ROW_NUMBER = BigInteger().with_variant(Integer, "sqlite")
DOCUMENT = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Base(DeclarativeBase):
    """The base of the models; its metadata names every constraint."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class ItemCategory(enum.Enum):
    """What an item is for; stored by name."""

    WEAPON = "weapon"
    ARMOUR = "armour"
    POTION = "potion"
    FOOD = "food"
    RUNE = "rune"
    RESOURCE = "resource"
    OTHER = "other"


class TradeKind(enum.Enum):
    """How a price came about; stored by name."""

    INSTANT_BUY = "instant buy"
    INSTANT_SELL = "instant sell"
    OFFER_BOUGHT = "offer bought"
    OFFER_SOLD = "offer sold"
    ESTIMATE = "estimate"


class Item(Base):
    """An item of the game. The game gives the id, and several items may have the same name."""

    __tablename__ = "items"
    __table_args__ = (UniqueConstraint("wiki_slug"), Index(None, "name"))

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(120))
    wiki_slug: Mapped[str] = mapped_column(String(160))
    examine: Mapped[str | None] = mapped_column(Text)
    category: Mapped[ItemCategory] = mapped_column(Enum(ItemCategory, name="item_category"))
    members: Mapped[bool]
    limit: Mapped[int | None]
    high_alch: Mapped[int | None]
    low_alch: Mapped[int | None]
    guide_price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    variant_of: Mapped[int | None] = mapped_column(ForeignKey("items.id"))
    attributes: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    created_at: Mapped[datetime] = mapped_column(DateTime)
    updated_at: Mapped[datetime | None] = mapped_column(DateTime)


class Trade(Base):
    """The prices of one item at one moment (UTC, stored without a zone)."""

    __tablename__ = "trades"
    __table_args__ = (Index(None, "item_id"), Index(None, "timestamp"))

    id: Mapped[int] = mapped_column(ROW_NUMBER, primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id"))
    timestamp: Mapped[datetime] = mapped_column(DateTime)
    kind: Mapped[TradeKind] = mapped_column(Enum(TradeKind, name="trade_kind"))
    high_price: Mapped[int | None]
    low_price: Mapped[int | None]
    high_volume: Mapped[int | None]
    low_volume: Mapped[int | None]
    turnover: Mapped[int | None] = mapped_column(BigInteger)
    margin: Mapped[float | None] = mapped_column(Float)
    is_flip: Mapped[bool]
    source: Mapped[str] = mapped_column(String(40))
    note: Mapped[str | None] = mapped_column(Text)


class WatchlistEntry(Base):
    """An item that someone watches; each once."""

    __tablename__ = "watchlist"
    __table_args__ = (UniqueConstraint("owner", "item_id"),)

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    owner: Mapped[str] = mapped_column(String(60))
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id", ondelete="CASCADE"))
    target_price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    notify: Mapped[bool]
    note: Mapped[str | None] = mapped_column(Text)
    preferences: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    created_at: Mapped[datetime] = mapped_column(DateTime)
    last_alert_at: Mapped[datetime | None] = mapped_column(DateTime)
