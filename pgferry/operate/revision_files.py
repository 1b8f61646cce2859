"""An application's revisions as files: which there are and what follows what, read without running any of them."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from pgferry.errors import UsageError


@dataclass(frozen=True, slots=True)
class RevisionFile:
    """One revision. `tree` is None when the file is no Python; `problem` then says why, and `line` where."""

    path: Path
    revision: str
    before: tuple[str, ...]
    """The revisions that it follows: its down revisions, and those that it depends on."""
    line: int
    """Where its name stands."""
    tree: ast.Module | None
    comments: Mapping[int, str]
    problem: str = ""
    doc: str = ""
    """The first line of its docstring."""
    down: tuple[str, ...] = ()


def read_revisions(config: Config) -> tuple[RevisionFile, ...]:
    """Read the revisions of a configuration, by name; files that name none are passed over.

    Raises UsageError when there is no folder of versions.
    """
    read = (_read(path) for folder in _folders(config) for path in _files(config, folder))
    return tuple(sorted((file for file in read if file is not None), key=lambda file: file.path.name))


def heads(revisions: Sequence[RevisionFile]) -> tuple[RevisionFile, ...]:
    """Return the revisions that no other one follows."""
    followed = {name for file in revisions for name in file.down}
    return tuple(file for file in revisions if file.revision not in followed and not file.problem)


def pending(revisions: Sequence[RevisionFile], applied: Collection[str]) -> tuple[RevisionFile, ...]:
    """Return the revisions that a database at `applied` has not had; those that are no Python are among them."""
    known = {file.revision: file for file in revisions if not file.problem}
    had: set[str] = set()
    waiting = list(applied)
    while waiting:
        name = waiting.pop()
        if name not in had and name in known:
            had.add(name)
            waiting += known[name].before
    return tuple(file for file in revisions if file.problem or file.revision not in had)


def in_order(revisions: Sequence[RevisionFile]) -> tuple[RevisionFile, ...]:
    """Return the revisions in an order in which each comes after those that it follows."""
    placed: dict[str, RevisionFile] = {}
    left = list(revisions)
    while left:
        names = {file.revision for file in left}
        ready = [file for file in left if not names & set(file.before)] or left
        placed |= {file.revision: file for file in ready}
        left = [file for file in left if file not in ready]
    return tuple(placed.values())


def version_table(config: Config) -> tuple[str | None, str]:
    """Return schema and name of the table in which Alembic notes the revision, as env.py gives them literally."""
    try:
        tree = ast.parse((Path(_location(config)) / "env.py").read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None, "alembic_version"
    given = {
        keyword.arg: keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str)
    }
    return given.get("version_table_schema"), given.get("version_table", "alembic_version")


def _location(config: Config) -> str:
    # ScriptDirectory knows `package:folder`; making it imports no revision.
    return ScriptDirectory.from_config(config).dir


def _folders(config: Config) -> tuple[Path, ...]:
    scripts = ScriptDirectory.from_config(config)
    folders = tuple(scripts._version_locations)
    if not any(folder.is_dir() for folder in folders):
        named = ", ".join(map(str, folders))
        raise UsageError(f"There is no folder of revisions: {named}.", "Make one: alembic init.")
    return folders


def _files(config: Config, folder: Path) -> list[Path]:
    deep = config.get_main_option("recursive_version_locations", "").lower() in ("true", "yes", "1", "on")
    return sorted(path for path in (folder.rglob if deep else folder.glob)("*.py") if path.name != "__init__.py")


def _read(path: Path) -> RevisionFile | None:
    try:
        text = path.read_text("utf-8")
        tree = ast.parse(text, str(path))
    except (SyntaxError, ValueError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        return RevisionFile(path, path.stem, (), line or 1, None, {}, problem=str(error))
    values = _literals(tree)
    name, line = values.get("revision", (None, 0))
    if not isinstance(name, str):
        return None
    down = _names(values.get("down_revision", (None, 0))[0])
    depends = _names(values.get("depends_on", (None, 0))[0])
    doc = (ast.get_docstring(tree) or "").partition("\n")[0].strip().rstrip(".")
    return RevisionFile(path, name, (*down, *depends), line, tree, _comments(text), doc=doc, down=down)


def _literals(tree: ast.Module) -> dict[str, tuple[object, int]]:
    """Return the literal values of the module's names and their lines: `a = 1`, `a: str = 1` and `a, b = 1, 2`."""
    values: dict[str, tuple[object, int]] = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            pairs: list[tuple[ast.expr, ast.expr]] = [(node.target, node.value)]
        elif isinstance(node, ast.Assign):
            pairs = [pair for target in node.targets for pair in _pairs(target, node.value)]
        else:
            continue
        for target, value in pairs:
            if isinstance(target, ast.Name):
                values[target.id] = (_literal(value), node.lineno)
    return values


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, tuple | list | set) else ()


def _comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
