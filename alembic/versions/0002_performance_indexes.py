"""Performance indexes: trades by item, trades by time, items by name.

Revision ID: 0002
Revises: 0001
Create Date: 2025-01-13 09:00:00
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_index("ix_trades_item_id", "trades", ["item_id"])
    op.create_index("ix_trades_timestamp", "trades", ["timestamp"])
    op.create_index("ix_items_name", "items", ["name"])


def downgrade() -> None:
    op.drop_index("ix_items_name", table_name="items")
    op.drop_index("ix_trades_timestamp", table_name="trades")
    op.drop_index("ix_trades_item_id", table_name="trades")
