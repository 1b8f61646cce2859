"""docs/troubleshooting.md says what the table of problems says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pgferry.operate.troubleshooting import page
from pgferry.postgres.problems import PROBLEMS, UNKNOWN

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"


def test_the_page_is_what_the_table_gives() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pgferry.operate.troubleshooting"], cwd=ROOT, capture_output=True, check=True
    )
    assert done.stdout.decode() == PAGE.read_text("utf-8"), (
        "Make it anew: python -m pgferry.operate.troubleshooting > docs/troubleshooting.md"
    )


def test_every_problem_has_one_section_with_its_cure() -> None:
    text = page()
    sections = text.split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections] == list(
        dict.fromkeys(problem.title for problem in (*PROBLEMS, UNKNOWN))
    )
    for section in sections:
        assert section.count("\n> ") == 1
        assert len(section.splitlines()[4]) > 20, "the cure"
        assert "{" not in section
