"""docs/troubleshooting.md, made from the table of problems:

python -m pgferry.operate.troubleshooting > docs/troubleshooting.md
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from itertools import groupby

from pgferry.postgres.problems import PROBLEMS, UNKNOWN, Problem

_HEAD = """\
# Troubleshooting

What PostgreSQL, its driver or the network report, what pgferry says of it, and what to do. `…` stands for names and
the first line of what was reported. Tasks of a flow try again by themselves, for about a minute, where that may help.

This page is generated: `python -m pgferry.operate.troubleshooting > docs/troubleshooting.md`.
"""

_BLANKS = {"server": "HOST:PORT", "database": "DATABASE", "user": "USER", "detail": "…"}


def page() -> str:
    """Return the page: a section a problem, in the order of the table."""
    sections = ["\n".join(_section(title, tuple(rows))) for title, rows in groupby((*PROBLEMS, UNKNOWN), _title)]
    return "\n".join([_HEAD, *sections])


def _title(problem: Problem) -> str:
    return problem.title


def _section(title: str, rows: tuple[Problem, ...]) -> Iterator[str]:
    yield f"## {title}\n"
    for message in dict.fromkeys(_filled(row.message) for row in rows):
        yield f"> {message}\n"
    for cure in dict.fromkeys(_filled(row.cure) for row in rows):
        yield f"{cure}\n"
    yield from (f"Reported as {_reported(row)}.\n" for row in rows if _reported(row))


def _filled(text: str) -> str:
    return text.format(**_BLANKS)


def _reported(row: Problem) -> str:
    """Return by what a problem is known: codes and classes, and words in the text."""
    codes = [f"SQLSTATE {state}{'' if len(state) == 5 else '…'}" for state in row.states]
    codes += [f"`{kind.__name__}`" for kind in row.classes]
    codes += [f"`{errno.errorcode[number]}`" for number in row.numbers]
    words = " or ".join(f'"{word}"' for word in row.words)
    return " or ".join(codes) + (f", with {words} in its text" if words else "")


if __name__ == "__main__":
    sys.stdout.write(page())
