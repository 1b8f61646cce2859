"""The Makefile's promises that can be checked without installing anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s3cret$word"

RECORDER = """#!{python}
import json, os, sys
names = ("PGFERRY_SOURCE", "PGFERRY_TARGET")
print(json.dumps({{"arguments": sys.argv[1:], **{{name: os.environ.get(name) for name in names}}}}))
if "pgferry.sample.generate" in sys.argv:
    open(sys.argv[-1], "w").close()
"""


def run(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as a person does, without settings of the surroundings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGFERRY_", "MAKE"))}
    return subprocess.run(
        ["make", *arguments], cwd=directory, env={**kept, **environment}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder whose virtual environment is complete and has a Python that tells how it was called."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    shutil.copy(ROOT / "requirements.lock", tmp_path / ".venv" / "requirements.lock")
    (binaries / "python").write_text(RECORDER.format(python=sys.executable), "utf-8")
    (binaries / "python").chmod(0o755)
    return tmp_path


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_help_is_the_default_and_lists_the_targets() -> None:
    listed = run(ROOT).stdout
    assert listed == run(ROOT, "help").stdout
    for target in ("migrate", "ui", "down", "test", "lint", "types", "check", "clean"):
        assert f"make {target} " in listed


def test_the_targets_password_is_in_no_commands_arguments() -> None:
    shown = run(ROOT, "-n", "migrate", f"TARGET=postgresql://u:{SECRET}@h/d")
    assert shown.returncode == 0
    assert "scripts/migrate.sh" in shown.stdout
    assert "s3cret" not in shown.stdout + shown.stderr


def test_migrate_hands_source_and_target_over_by_environment_as_they_are(project: Path) -> None:
    target = f"postgresql://u:{SECRET}@h/d"
    done = run(project, "migrate", f"TARGET={target}", "SOURCE=my app.db", "ARGS=--json --restart")
    assert last_line(done) == (
        '{"arguments": ["-m", "flows", "migrate", "--json", "--restart"], '
        f'"PGFERRY_SOURCE": "my app.db", "PGFERRY_TARGET": "{target}"}}'
    )
    assert done.stdout.count("\n") == 1
    assert "s3cret" not in done.stderr


def test_a_target_in_the_environment_under_the_short_name_is_not_taken(project: Path) -> None:
    assert '"PGFERRY_TARGET": null' in last_line(run(project, "migrate", "SOURCE=app.db", TARGET="linux-x86_64"))


def test_migrate_without_a_source_makes_the_sample_once(project: Path) -> None:
    sample = project / ".pgferry" / "sample" / "osrs_tool_hub.db"
    first = run(project, "migrate")
    assert '"PGFERRY_SOURCE": ".pgferry/sample/osrs_tool_hub.db"' in last_line(first)
    assert "with 200000 trades" in first.stderr
    assert sample.exists()
    made = sample.stat().st_ino
    assert "taking the sample" in run(project, "migrate").stderr
    assert sample.stat().st_ino == made
    assert "with 500 trades" in run(project, "migrate", "ROWS=500").stderr
    assert sample.stat().st_ino != made


@pytest.mark.parametrize("line", ["DATABASE_URL=sqlite+aiosqlite:///./app.db", "export PGFERRY_SOURCE = app.db"])
def test_migrate_takes_no_sample_where_dotenv_names_a_source(project: Path, line: str) -> None:
    (project / ".env").write_text(f"DEBUG=1\n{line}\n", "utf-8")
    done = run(project, "migrate")
    assert '"PGFERRY_SOURCE": null' in last_line(done)
    assert not (project / ".pgferry").exists()


def test_migrate_ends_with_an_error_when_the_move_does(project: Path) -> None:
    (project / ".venv" / "bin" / "python").write_text('#!/bin/sh\n[ "$1" = -c ] && echo 3.11 || exit 3\n', "utf-8")
    done = run(project, "migrate", "SOURCE=app.db")
    assert done.returncode != 0
    assert "Error 3" in done.stderr


@pytest.mark.parametrize("named", ["/nonexistent/python", "false"])
def test_an_unsuitable_python_is_refused_with_what_to_do(project: Path, named: str) -> None:
    shutil.rmtree(project / ".venv")
    done = run(project, "venv", f"PYTHON={named}")
    assert done.returncode != 0
    assert "pgferry needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (project / ".venv").exists()


def test_down_where_nothing_was_installed_installs_nothing(project: Path) -> None:
    shutil.rmtree(project / ".venv")
    assert last_line(run(project, "down")) == "Nothing was started here."
    assert not (project / ".venv").exists()


def test_faults_reaches_every_slow_test() -> None:
    """What `make test` passes over is run by nothing else."""
    named = [ROOT / word for word in run(ROOT, "-n", "faults").stdout.split() if word.startswith("tests/")]
    assert named and all(path.exists() for path in named)
    slow = {path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.slow" in path.read_text("utf-8")}
    slow.discard(Path(__file__).resolve())
    assert len(slow) > 8
    assert [path for path in slow if not any(path.is_relative_to(place) for place in named)] == []
