"""Looks at revisions before they meet a database that an application writes to. Reads syntax trees; runs nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgferry.operate.operations import Operation, Remark, Rule, judge
from pgferry.operate.revision_calls import operations
from pgferry.operate.revision_files import RevisionFile, heads
from pgferry.report import markdown_cell, markdown_table

_LEFTOVER = re.compile(r"please adjust|commands auto generated", re.I)
_ALLOWED = re.compile(r"#\s*pgferry:\s*allow\s+([a-z-]+(?:\s*,\s*[a-z-]+)*)", re.I)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a revision, where, and what to do."""

    file: Path
    line: int
    revision: str
    rule: Rule
    message: str
    action: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message} {self.action} [{self.rule}]"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "file": str(self.file),
            "line": self.line,
            "revision": self.revision,
            "rule": str(self.rule),
            "message": self.message,
            "action": self.action,
        }


def lint(revisions: Sequence[RevisionFile], looked_at: Collection[RevisionFile]) -> tuple[Finding, ...]:
    """Return what is wrong with the revisions `looked_at`, by file and line; the others are known besides.

    `# pgferry: allow RULE, RULE` on the line, or on the one before, says that a person has decided otherwise.
    """
    done = {file.path: operations(file.tree) for file in revisions if file.tree is not None}
    found = [finding for file in looked_at for finding in _findings(file, done)]
    names = {file.path for file in looked_at}
    found += [finding for finding in _several_heads(revisions) if finding.file in names]
    return tuple(sorted(found, key=lambda finding: (finding.file.name, finding.line)))


def lint_markdown(findings: Sequence[Finding], looked_at: int) -> str:
    """Return the findings as a table."""
    if not findings:
        return f"{looked_at} revisions: nothing found.\n"
    rows = [
        (f"{finding.file.name}:{finding.line}", str(finding.rule), finding.message, finding.action)
        for finding in findings
    ]
    return markdown_table(("where", "rule", "what", "instead"), [tuple(map(markdown_cell, row)) for row in rows])


def _findings(file: RevisionFile, done: dict[Path, list[Operation]]) -> Iterator[Finding]:
    if file.tree is None:
        yield _finding(file, file.line, Rule.UNREADABLE, f"This is no Python: {file.problem}.", "Correct the file.")
        return
    yield from _downgrade(file, file.tree)
    yield from _leftovers(file)
    elsewhere = [operation for path, others in done.items() if path != file.path for operation in others]
    for remark in judge(done[file.path], elsewhere):
        if not _is_allowed(file, remark):
            yield _finding(file, remark.operation.line, remark.rule, remark.message, remark.action)


def _downgrade(file: RevisionFile, tree: ast.Module) -> Iterator[Finding]:
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    down, up = functions.get("downgrade"), functions.get("upgrade")
    if up is None or _is_empty(up) or (down is not None and not _is_empty(down)):
        return
    line = down.lineno if down is not None else file.line
    if Rule.DOWNGRADE not in _allowed_on(file, line, line):
        what = "There is no downgrade." if down is None else "The downgrade is empty."
        action = "Write one that undoes the upgrade, or let it raise and say why there is no way back."
        yield _finding(file, line, Rule.DOWNGRADE, what, action)


def _is_empty(function: ast.FunctionDef) -> bool:
    return all(
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        or (isinstance(statement, ast.Return) and statement.value is None)
        for statement in function.body
    )


def _leftovers(file: RevisionFile) -> Iterator[Finding]:
    for line, comment in file.comments.items():
        if _LEFTOVER.search(comment):
            what = f"Autogenerate's own words are still there: {comment.strip('# ').strip()!r}."
            yield _finding(file, line, Rule.LEFTOVER, what, "Read what it has written, correct it, and take them away.")


def _several_heads(revisions: Sequence[RevisionFile]) -> Iterator[Finding]:
    ends = heads(revisions)
    if len(ends) > 1:
        names = " ".join(sorted(file.revision for file in ends))
        for file in ends:
            yield _finding(
                file,
                file.line,
                Rule.HEADS,
                f"This is one of {len(ends)} heads: {names}.",
                f"Join them: alembic merge -m 'merge' {names}.",
            )


def _is_allowed(file: RevisionFile, remark: Remark) -> bool:
    return remark.rule in _allowed_on(file, remark.operation.line, remark.operation.end)


def _allowed_on(file: RevisionFile, first: int, last: int) -> set[str]:
    comments = [file.comments.get(line, "") for line in range(first - 1, last + 1)]
    return {
        name.strip().lower() for comment in comments for found in _ALLOWED.findall(comment) for name in found.split(",")
    }


def _finding(file: RevisionFile, line: int, rule: Rule, message: str, action: str) -> Finding:
    return Finding(file.path, line, file.revision, rule, message, action)
