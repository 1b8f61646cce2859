"""Initial schema: items, trades, watchlist.

Revision ID: 0001
Revises:
Create Date: 2025-01-06 09:00:00
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# create_type=False: the types are made and dropped by name below, not on the side of a table.
ITEM_CATEGORY = postgresql.ENUM(
    "WEAPON", "ARMOUR", "POTION", "FOOD", "RUNE", "RESOURCE", "OTHER", name="item_category", create_type=False
)
TRADE_KIND = postgresql.ENUM(
    "INSTANT_BUY",
    "INSTANT_SELL",
    "OFFER_BOUGHT",
    "OFFER_SOLD",
    "ESTIMATE",
    name="trade_kind",
    create_type=False,
)


def upgrade() -> None:
    for kind in (ITEM_CATEGORY, TRADE_KIND):
        kind.create(op.get_bind(), checkfirst=False)
    op.create_table(
        "items",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("wiki_slug", sa.String(160), nullable=False),
        sa.Column("examine", sa.Text(), nullable=True),
        sa.Column("category", ITEM_CATEGORY, nullable=False),
        sa.Column("members", sa.Boolean(), nullable=False),
        sa.Column("limit", sa.Integer(), nullable=True),
        sa.Column("high_alch", sa.Integer(), nullable=True),
        sa.Column("low_alch", sa.Integer(), nullable=True),
        sa.Column("guide_price", sa.Numeric(12, 2), nullable=True),
        sa.Column("variant_of", sa.Integer(), nullable=True),
        sa.Column("attributes", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_items"),
        sa.UniqueConstraint("wiki_slug", name="uq_items_wiki_slug"),
        sa.ForeignKeyConstraint(["variant_of"], ["items.id"], name="fk_items_variant_of_items"),
    )
    op.create_table(
        "trades",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("timestamp", sa.DateTime(), nullable=False),
        sa.Column("kind", TRADE_KIND, nullable=False),
        sa.Column("high_price", sa.Integer(), nullable=True),
        sa.Column("low_price", sa.Integer(), nullable=True),
        sa.Column("high_volume", sa.Integer(), nullable=True),
        sa.Column("low_volume", sa.Integer(), nullable=True),
        sa.Column("turnover", sa.BigInteger(), nullable=True),
        sa.Column("margin", sa.Float(), nullable=True),
        sa.Column("is_flip", sa.Boolean(), nullable=False),
        sa.Column("source", sa.String(40), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_trades"),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name="fk_trades_item_id_items"),
    )
    op.create_table(
        "watchlist",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("owner", sa.String(60), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("target_price", sa.Numeric(12, 2), nullable=True),
        sa.Column("notify", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("preferences", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("last_alert_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_watchlist"),
        sa.UniqueConstraint("owner", "item_id", name="uq_watchlist_owner_item_id"),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name="fk_watchlist_item_id_items", ondelete="CASCADE"),
    )


def downgrade() -> None:
    for table in ("watchlist", "trades", "items"):
        op.drop_table(table)
    for kind in (TRADE_KIND, ITEM_CATEGORY):
        kind.drop(op.get_bind(), checkfirst=False)
