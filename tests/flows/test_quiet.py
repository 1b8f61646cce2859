"""What a command takes from Prefect: its log on the screen, and heartbeats, whose thread its end would wait for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEARTBEAT = """
from flows.command import quiet_prefect
from prefect.settings import get_current_settings

with quiet_prefect({debug}):
    print(get_current_settings().flows.heartbeat_frequency)
"""
LEFT_TO_SEND = """
import asyncio
from prefect import flow  # before, as a command does
from flows.command import quiet_prefect

with quiet_prefect({debug}):
    from prefect._internal.concurrency.services import QueueService

    class AtTheEnd(QueueService):
        async def _handle(self, item):
            while not self._stopped:
                await asyncio.sleep(0.05)

    for item in range(3):
        AtTheEnd.instance().send(item)
"""


def run(program: str, debug: bool, home: Path, **chosen: str) -> subprocess.CompletedProcess[str]:
    # Commands that tests call in this process have left their choice in its environment.
    left = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env = {**left, "PREFECT_HOME": str(home), **chosen}
    program = program.format(debug=debug)
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    ("debug", "chosen", "expected"), [(False, {}, "None"), (True, {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "40"}, "40")]
)
def test_only_who_asks_for_heartbeats_gets_them(
    debug: bool, chosen: dict[str, str], expected: str, tmp_path: Path
) -> None:
    assert run(HEARTBEAT, debug, tmp_path, **chosen).stdout.strip() == expected


@pytest.mark.parametrize("debug", [False, True])
def test_what_is_sent_while_the_process_ends_is_told_to_who_debugs_only(debug: bool, tmp_path: Path) -> None:
    assert ("Still processing items" in run(LEFT_TO_SEND, debug, tmp_path).stderr) is debug
