"""A command's flow run sends no heartbeats, whose thread its end would wait for; unless a setting asks for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from flows.command import quiet_prefect
from prefect.settings import get_current_settings

with quiet_prefect({debug}):
    print(get_current_settings().flows.heartbeat_frequency)
"""


@pytest.mark.parametrize(
    ("debug", "chosen", "expected"), [(False, {}, "None"), (True, {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "40"}, "40")]
)
def test_only_who_asks_for_heartbeats_gets_them(
    debug: bool, chosen: dict[str, str], expected: str, tmp_path: Path
) -> None:
    env = {**os.environ, "PREFECT_HOME": str(tmp_path), **chosen}
    program = PROGRAM.format(debug=debug)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
