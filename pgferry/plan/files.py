"""Writes a plan into a folder: an Alembic environment with one revision, pgferry.toml and the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pgferry.errors import Permanent, UsageError
from pgferry.plan.model import SchemaPlan
from pgferry.plan.report import render_report
from pgferry.plan.revision import render_revision
from pgferry.plan.rules_file import render_rules
from pgferry.plan.trial import untried
from pgferry.private import make_folder

_TEMPLATES = ("alembic.ini", "env.py", "script.py.mako")
_MANIFEST = "generated.json"


@dataclass(frozen=True, slots=True)
class WrittenPlan:
    """The files of a written plan."""

    folder: Path
    alembic_config: Path
    revision: Path
    revision_id: str
    rules: Path
    report: Path
    kept: tuple[Path, ...] = ()
    """Files that a person has changed since they were written: left as they are."""


def write_plan(plan: SchemaPlan, directory: Path) -> WrittenPlan:
    """Write a plan's files into a folder, which is made when it is missing.

    Writing the same plan twice changes nothing. A file that a person has changed is kept, and named; the revision of an
    earlier plan is replaced unless it was changed: then UsageError, for Alembic would find two heads. Views of a plan
    that no server has tried are left out. Raises Permanent when the folder cannot be written.
    """
    plan = untried(plan)
    revision = render_revision(plan)
    texts = {name: _template(name) for name in _TEMPLATES}
    texts |= {"pgferry.toml": render_rules(plan), "report.md": render_report(plan)}
    texts |= {f"versions/{revision.file_name}": revision.text}
    try:
        kept = _Folder(directory).write(texts)
    except OSError as error:
        raise Permanent(f"The plan cannot be written to {directory}: {error}.", "Name another folder.") from error
    return WrittenPlan(
        folder=directory,
        alembic_config=directory / "alembic.ini",
        revision=directory / "versions" / revision.file_name,
        revision_id=revision.id,
        rules=directory / "pgferry.toml",
        report=directory / "report.md",
        kept=tuple(directory / name for name in kept),
    )


def _template(name: str) -> str:
    return (resources.files("pgferry.plan") / "templates" / f"{name}.template").read_text("utf-8")


class _Folder:
    """A folder of generated files, with a manifest of what was written to tell what a person has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: dict[str, str] = self._manifest()

    def write(self, texts: Mapping[str, str]) -> list[str]:
        stale = [name for name in self._written if name.startswith("versions/") and name not in texts]
        self._refuse_changed(stale)
        # Of the folder itself, which may be a project's, the umask decides; HOME/plans is for its owner.
        make_folder(self._path.parent)
        (self._path / "versions").mkdir(parents=True, exist_ok=True)
        for name in stale:
            (self._path / name).unlink(missing_ok=True)
            del self._written[name]
        kept = [name for name in sorted(texts) if not self._write(name, texts[name])]
        manifest = json.dumps(self._written, indent=1, sort_keys=True) + "\n"
        (self._path / _MANIFEST).write_text(manifest, "utf-8")
        return kept

    def _write(self, name: str, text: str) -> bool:
        path = self._path / name
        if path.exists() and self._is_changed(name) and _hash(path) != _hash_of(text):
            return False
        path.write_text(text, "utf-8", newline="\n")
        self._written[name] = _hash_of(text)
        return True

    def _is_changed(self, name: str) -> bool:
        path = self._path / name
        return path.exists() and _hash(path) != self._written.get(name)

    def _refuse_changed(self, names: list[str]) -> None:
        for name in names:
            if self._is_changed(name):
                raise UsageError(
                    f"{self._path / name} was changed by hand, and the new plan has another revision.",
                    "Name another folder with --revisions, or remove the changed file.",
                )

    def _manifest(self) -> dict[str, str]:
        try:
            return dict(json.loads((self._path / _MANIFEST).read_text("utf-8")))
        except (OSError, ValueError):
            return {}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
