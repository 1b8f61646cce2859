"""flows -> tasks -> pgferry: nothing imports against this direction, and the library knows nothing of Prefect."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgferry

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "pgferry": {"prefect", "flows", "tasks"},
    "tasks": {"flows"},
    "alembic": {"prefect", "flows", "tasks"},
}


def imports(file: Path) -> Iterator[str]:
    """Yield the top-level packages that a file imports, within functions too."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: imports are absolute here"
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_package_imports_none_above_it(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(file.relative_to(ROOT)): found for file in files if (found := set(imports(file)) & FORBIDDEN[package])}
    assert wrong == {}


def test_the_whole_library_is_imported_without_prefect() -> None:
    modules = [module.name for module in pkgutil.walk_packages(pgferry.__path__, "pgferry.")]
    assert len(modules) > 40
    code = f"""
import importlib, sys
for name in {modules!r}:
    if not name.endswith("__main__"):
        importlib.import_module(name)
sys.exit(", ".join(sorted({{"prefect", "flows", "tasks"}} & set(sys.modules))) or None)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
