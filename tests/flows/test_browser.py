"""What a person finds in the Prefect UI after a run: the run by its name, the table of what moved, the chart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.browser import PATIENCE, browsing, wait_for
from tests.stack import TRADES, Stack

LOADED = "image => image.complete && image.naturalWidth > 0 && image.naturalHeight > 0"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browsing() as opened:
        yield opened


def test_the_run_its_table_and_its_chart_are_found(
    page: Page, stack: Stack, deployed_run: subprocess.CompletedProcess[str]
) -> None:
    assert deployed_run.returncode == 0, deployed_run.stdout + deployed_run.stderr
    name = f"migrate osrs_tool_hub.db, {stack.target.database}"

    # 1. The run, by its name.
    page.goto(f"{stack.api.removesuffix('/api')}/runs", wait_until="domcontentloaded")
    page.get_by_role("searchbox", name="Search by flow run name").fill(name)
    wait_for(page.get_by_role("link", name=name).first).click()
    wait_for(page.get_by_text("Completed").first)

    # 2. Its page of what moved, by the tab of its artifacts.
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    wait_for(page.get_by_text("migration", exact=True).first).click()
    wait_for(page.get_by_role("heading", name="all equal"))

    # 3. The table: a row for each table that moved, with its rows and the verdict.
    row = wait_for(page.get_by_role("row", name="trades")).inner_text()
    assert row.split()[:3] == ["trades", f"{TRADES:,}", f"{TRADES:,}"]
    assert row.split()[-1] == "equal"

    # 4. The chart, which a browser could read and draw.
    chart = wait_for(page.get_by_role("img", name="Rows loaded per second"))
    page.wait_for_function(LOADED, arg=chart.element_handle(), timeout=PATIENCE)
    assert chart.evaluate("image => image.src.startsWith('data:image/svg+xml')")
