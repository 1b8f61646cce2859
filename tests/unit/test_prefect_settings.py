"""Prefect's settings are found where Prefect finds them, without importing it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.prefect_settings import Found, find_setting
from pgferry.errors import UsageError

NAME = "PREFECT_API_URL"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a Prefect home in it, and nothing of Prefect in the environment."""
    for name in os.environ:
        if name.startswith("PREFECT_"):
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def profiles(place: Path, text: str) -> None:
    (place / "home" / "profiles.toml").write_text(text, "utf-8")


MINE = 'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://profile/api"\n[profiles.empty]\n'


def test_nothing_is_set_by_default(place: Path) -> None:
    assert find_setting(NAME) is None
    profiles(place, 'active = "empty"\n[profiles.empty]\n')
    assert find_setting(NAME) is None


def test_the_order_is_prefects(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles(place, MINE)
    assert find_setting(NAME) == Found("http://profile/api", "the Prefect profile 'mine'")
    (place / "pyproject.toml").write_text('[tool.prefect.api]\nurl = "http://pyproject/api"\n', "utf-8")
    assert find_setting(NAME) == Found("http://pyproject/api", "pyproject.toml")
    (place / "prefect.toml").write_text('[api]\nurl = "http://toml/api"\n', "utf-8")
    assert find_setting(NAME) == Found("http://toml/api", "prefect.toml")
    (place / ".env").write_text(f"{NAME}=http://dotenv/api\n", "utf-8")
    assert find_setting(NAME) == Found("http://dotenv/api", ".env")
    monkeypatch.setenv(NAME, "http://environment/api")
    assert find_setting(NAME) == Found("http://environment/api", "the environment")


def test_another_profile_can_be_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles(place, MINE)
    monkeypatch.setenv("PREFECT_PROFILE", "empty")
    assert find_setting(NAME) is None
    monkeypatch.setenv("PREFECT_PROFILE", "local")
    assert find_setting(NAME) == Found("http://127.0.0.1:4200/api", "the Prefect profile 'local'")


def test_an_empty_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "")
    assert find_setting(NAME) is None


def test_a_file_that_is_no_toml_is_named(place: Path) -> None:
    profiles(place, "active = ")
    with pytest.raises(UsageError, match=r"profiles\.toml is no TOML"):
        find_setting(NAME)


def test_what_runs_before_prefect_does_not_import_it() -> None:
    code = "import sys, flows.operations, flows.prefect_worker; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
