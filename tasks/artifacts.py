"""Artifacts: what a task shows in the Prefect UI. One that cannot be written is a warning, never the task's failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import artifacts, get_run_logger


def create_markdown_artifact(markdown: str, *, key: str, description: str) -> None:
    """Show a text; the Prefect server may be away."""
    _show(key, lambda: artifacts.create_markdown_artifact(markdown, key=key, description=description))


def create_table_artifact(table: list[dict[str, Any]], *, key: str, description: str) -> None:
    """Show a table; the Prefect server may be away."""
    _show(key, lambda: artifacts.create_table_artifact(table, key=key, description=description))


def _show(key: str, create: Callable[[], object]) -> None:
    try:
        create()
    except Exception as error:
        # The work is done and recorded in the target: that Prefect was not told undoes nothing of it.
        get_run_logger().warning("The artifact %s was not written: %s.", key, type(error).__name__)
