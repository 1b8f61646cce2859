"""Telling a person: an artifact, and a message through a notification block where one is named."""

from __future__ import annotations

from inspect import isawaitable
from typing import Any

from prefect import get_run_logger, task
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block

from pgferry.errors import Transient, UsageError
from tasks.artifacts import create_markdown_artifact
from tasks.ends import wait_for
from tasks.retries import TRANSIENT


@task(name="keep alert", task_run_name="keep the alert")
def keep_alert(subject: str, text: str) -> None:
    """Keep the alert as an artifact."""
    create_markdown_artifact(text, key="alert", description=subject)
    get_run_logger().error("%s", subject)


@task(name="notify", task_run_name="notify by {block}", **TRANSIENT)
def notify(block: str, subject: str, text: str) -> None:
    """Send the text through the notification block `type/name`, as the Prefect UI names it (`slack-webhook/ops`)."""
    loaded = _load(block)

    async def send() -> None:
        with loaded.raise_on_failure():
            sent: Any = loaded.notify(text, subject)  # a coroutine or not, as the block pleases
            if isawaitable(sent):
                await sent

    try:
        wait_for(send())
    except Exception as error:
        raise Transient(f"The block {block} did not send: {type(error).__name__}.", "Look at the block.") from error
    get_run_logger().info("Told through %s.", block)


def _load(name: str) -> NotificationBlock:
    try:
        loaded = Block.load(name)
    except ValueError as error:
        raise UsageError(
            f"There is no block {name!r}.", "Create it in the Prefect UI, and name it as type/name: slack-webhook/ops."
        ) from error
    if not isinstance(loaded, NotificationBlock):
        raise UsageError(f"The block {name!r} sends no notifications.", "Name a notification block.")
    return loaded
