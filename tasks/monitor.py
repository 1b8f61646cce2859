"""The monitor: a look at the target, shown as artifacts, and told as events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from httpx import HTTPError
from prefect import get_client, get_run_logger, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound

from pgferry.operate import monitor
from pgferry.operate.monitor_page import conclusion, page
from pgferry.operate.watched import LAG, Breach, Look
from pgferry.postgres.metrics import Series
from pgferry.postgres.problems import server_of
from pgferry.settings import load_settings
from tasks.artifacts import create_markdown_artifact, create_table_artifact
from tasks.ends import session, target_url, wait_for
from tasks.retries import TRANSIENT

FORGOTTEN = 50
"""Artifacts that one run deletes at the most: several times what it makes."""


@task(name="look", task_run_name="look at the server", **TRANSIENT)
def look(target: str, config: str, kept: bool) -> tuple[Look, Series]:
    """Look at the target, keep the numbers if they are to be `kept`, and read those of the last days."""
    url, settings = target_url(target), load_settings(config=config or None)

    async def work() -> tuple[Look, Series]:
        async with session(url, settings) as connection:
            return await monitor.watch(connection, settings, server_of(url), kept=kept)

    found, series = wait_for(work())
    log = get_run_logger()
    log.info("%s: %d numbers measured.", conclusion(found), len(found.metrics))
    for note in found.notes:
        log.info("%s", note)
    for breach in found.breaches:
        log.warning("%s %s", breach.sentence, breach.action)
    return found, series


@task(name="show look", task_run_name="show what was found")
def show(found: Look, series: Series) -> None:
    """Keep the look as artifacts: a page with charts, and a table for each listing."""
    create_markdown_artifact(page(found, series, load_settings()), key="monitor", description=conclusion(found))
    for listing in found.listings:
        create_table_artifact(listing.records(), key=f"monitor-{listing.key}", description=listing.title)


@task(name="tell breaches", task_run_name="emit an event for each breach")
def tell(found: Look, flow_run: str) -> None:
    """Emit `pgferry.monitor.breach` for each breach, `pgferry.lag.high` for one of the lag, for automations."""
    for breach in found.breaches:
        _emit(found, breach, flow_run)
    get_run_logger().info("%d breaches told.", len(found.breaches))


def _emit(found: Look, breach: Breach, flow_run: str) -> None:
    emit_event(
        "pgferry.lag.high" if breach.name == LAG else "pgferry.monitor.breach",
        resource={
            "prefect.resource.id": f"pgferry.monitor.{found.server}/{found.database}",
            "prefect.resource.name": f"{found.database} at {found.server}",
            # A label, because automations match by labels: whoever was told once is not told every five minutes.
            "pgferry.news": "again" if breach.again else "new",
        },
        payload={
            "summary": breach.sentence,
            "source": breach.subject or f"{found.database} at {found.server}",
            "flow_run": flow_run,
            "breach": breach.name,
            "value": breach.value,
            "setting": f"PGFERRY_{breach.setting.upper()}",
            "action": breach.action,
        },
    )


@task(name="forget looks", task_run_name="forget old artifacts of the monitor")
def forget() -> int:
    """Delete the oldest artifacts of the monitor that are older than the settings' `artifact_days`; return how many.

    That the server does not do it now is said, and no failure: the next run does it.
    """
    forgotten = 0
    try:
        with get_client(sync_client=True) as client:
            for artifact in _old(client):
                client.delete_artifact(artifact)
                forgotten += 1
    except (HTTPError, ObjectNotFound) as error:
        get_run_logger().warning("Old artifacts stay for now: %s.", error)
    get_run_logger().info("%d artifacts of the monitor were forgotten.", forgotten)
    return forgotten


def _old(client: SyncPrefectClient) -> list[UUID]:
    mine = ArtifactFilter(key=ArtifactFilterKey(like_="monitor%"))
    limit = datetime.now(UTC) - timedelta(days=load_settings().artifact_days)
    counted = client.request("POST", "/artifacts/count", json={"artifacts": mine.model_dump(mode="json")})
    newer = max(counted.json() - FORGOTTEN, 0)
    oldest = client.read_artifacts(artifact_filter=mine, sort=ArtifactSort.CREATED_DESC, offset=newer, limit=FORGOTTEN)
    return [each.id for each in oldest if each.created is not None and each.created < limit]
