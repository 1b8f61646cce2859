"""One variable of the application's `.env`: read, replaced and put back, with everything else left byte for byte.

Lines are taken apart as python-dotenv reads them, so that a name inside a value of several lines is not taken for a
variable. Values may be secrets: no error shows one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from pgferry.disk import sync
from pgferry.errors import Permanent
from pgferry.private import make_folder

_BOM = "\ufeff"

_HEAD = re.compile(r"\s*(?:export[^\S\r\n]+)?(?:'[^']+'|[^=#\s]+)[^\S\r\n]*=[^\S\r\n]*")
"""What stands before a value."""

_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=~?&-]*")
"""A value that needs no quotes and means the same between any."""


_QUOTES = ("'", '"')


def read_variable(path: Path, name: str) -> str | None:
    """Return the variable's value as the application reads it; None when file or variable are not there.

    Raises Permanent when the file cannot be read.
    """
    try:
        with _explained(path, "read"):
            text = _decode(path.read_bytes())
    except FileMissing:
        return None
    return dotenv_values(stream=StringIO(text, newline="")).get(name)


def replace_variable(path: Path, name: str, value: str, keep: Path) -> None:
    """Give the variable a value, wherever the file assigns it; the file as it was is kept at `keep` first.

    Atomic: a reader, and whoever comes after a crash, finds the old file or the new one, whole. Where the value is set
    already nothing is written, and what `keep` holds stays. Of a link, the file behind it is replaced. Mode and owner
    stay as they are; the kept file is this account's alone. Raises Permanent, with the file unchanged, when it does
    not assign the variable, cannot be read or replaced, or cannot hold the value so that it is read back as it is.
    """
    _refuse_value(path, name, value)
    before = _read(path)
    if all(binding.value == value for binding in _assigned(path, before, name)):
        return
    after = _with_value(path, before, name, value)
    _write(keep, before)
    _write(path.resolve(), after, like=path)


def restore(path: Path, keep: Path, name: str | None = None) -> None:
    """Put back the file that `replace_variable` kept; with `name`, only that variable, as it was written there.

    The latter leaves what a person changed in other lines meanwhile. Atomic, and raises, as `replace_variable`. The
    kept file stays.
    """
    kept = _read(keep)
    if name is None:
        _write(path.resolve(), kept, like=path if path.exists() else None)
        return
    raws = [_parts(binding)[1] for binding in _assigned(keep, kept, name)]
    before = _read(path)
    _assigned(path, before, name)
    after = _changed(before, name, lambda number, raw: raws[min(number, len(raws) - 1)])
    if after != before:
        _write(path.resolve(), after, like=path)


# ---------------------------------------------------------------- the text


def _decode(content: bytes) -> str:
    # Whatever the bytes of other lines are, they are written back as they were.
    return content.decode("utf-8", "surrogateescape")


def _bindings(text: str) -> Iterator[Binding]:
    return parse_stream(StringIO(text, newline=""))


def _assigns(binding: Binding, name: str) -> bool:
    return binding.key == name and binding.value is not None


def _assigned(path: Path, text: str, name: str) -> list[Binding]:
    found = [binding for binding in _bindings(text) if _assigns(binding, name)]
    if not found:
        raise Permanent(
            f"{path} does not set {name}.",
            f"Write the line {name}=… as the application uses it now, or correct PGFERRY_APPLICATION_ENV and "
            "PGFERRY_APPLICATION_VARIABLE.",
        )
    return found


def _with_value(path: Path, text: str, name: str, value: str) -> str:
    """Return the text with the variable's new value, in quotes that keep it and all others."""
    wanted = [(binding.key, value if _assigns(binding, name) else binding.value) for binding in _bindings(text)]
    for quote in ("", "'", '"'):
        after = _changed(text, name, partial(_written, value, quote))
        # A quote that another line leaves open would end at one of ours.
        if [(binding.key, binding.value) for binding in _bindings(after)] == wanted:
            return after
    raise Permanent(f"{path} cannot hold the new value of {name}: it would change other lines.", "Set it by hand.")


def _changed(text: str, name: str, new: Callable[[int, str], str]) -> str:
    """Return the text with `new(number, value as written)` in the place of each value of the variable."""
    parts = [_BOM] if text.startswith(_BOM) else []
    number = 0
    for binding in _bindings(text):
        if not _assigns(binding, name):
            parts.append(binding.original.string)
            continue
        head, raw, tail = _parts(binding)
        value = new(number, raw)
        # `NAME= # comment`: directly behind a value without quotes the comment would be a part of it.
        apart = " " if tail.startswith("#") and value[-1:] not in ("", *_QUOTES) else ""
        parts += [head, value, apart, tail]
        number += 1
    return "".join(parts)


def _parts(binding: Binding) -> tuple[str, str, str]:
    """Return what stands before the value, the value as written, and what stands behind it."""
    line = binding.original.string
    match = _HEAD.match(line)
    assert match is not None
    head, rest = match.group(), line[match.end() :]
    if quoted := _QUOTED.match(rest):
        return head, quoted.group(), rest[quoted.end() :]
    part = re.split(r"[\r\n]", rest, maxsplit=1)[0]
    commented = part.startswith("#") and head[-1] != "="
    raw = "" if commented else re.sub(r"\s+#.*", "", part).rstrip()
    return head, raw, rest[len(raw) :]


def _written(value: str, quote: str, number: int, raw: str) -> str:
    """Return the value in these quotes, or, without a choice, in those that were there or that keep it."""
    if not quote and value and _PLAIN.fullmatch(value):
        before = raw[:1] if raw[:1] in _QUOTES else ""
        return f"{before}{value}{before}"
    quote = quote or ('"' if "'" in value or "\\" in value else "'")
    escaped = value.replace("\\", "\\\\").replace(quote, f"\\{quote}")
    return f"{quote}{escaped}{quote}"


def _refuse_value(path: Path, name: str, value: str) -> None:
    if "${" in value:
        raise Permanent(
            f"{path} cannot hold the new value of {name}: readers of such files replace what begins with ${{.",
            "Percent-encode the $ in the URL as %24.",
        )
    if not value.isprintable():
        raise Permanent(
            f"{path} cannot hold the new value of {name}: a character of it cannot be printed.",
            "Percent-encode such characters in the URL.",
        )


# ---------------------------------------------------------------- the file


class FileMissing(Permanent):
    """There is no such file."""


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileMissing(
            f"There is no file {path}.",
            "Correct PGFERRY_APPLICATION_ENV, or make the file.",
        ) from error
    except OSError as error:
        raise Permanent(
            f"{path} cannot be {what}: {error.strerror}.",
            f"Let this account read and write the file and its folder {path.parent}.",
        ) from error


def _read(path: Path) -> str:
    with _explained(path, "read"):
        return _decode(path.read_bytes())


def _write(path: Path, text: str, *, like: Path | None = None) -> None:
    """Write the file, whole or not at all, with the mode and owner of `like`; by default for this account alone."""
    # One name, so that what a kill leaves behind goes away with the next try.
    fresh = path.with_name(f"{path.name}.pgferry-new")
    with _explained(path, "written"):
        make_folder(path.parent)
        fresh.unlink(missing_ok=True)
        try:
            _write_fresh(fresh, text.encode("utf-8", "surrogateescape"), like.stat() if like else None)
            os.replace(fresh, path)  # noqa: PTH105  the same call, by the name that a test can stop at
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        sync(path.parent)


def _write_fresh(path: Path, content: bytes, like: os.stat_result | None) -> None:
    # Nobody else may read it at any moment: mode 0600 from its first byte on.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
        file.write(content)
        if like is not None:
            _make_alike(file.fileno(), like)
        file.flush()
        os.fsync(file.fileno())


def _make_alike(descriptor: int, like: os.stat_result) -> None:
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (like.st_uid, like.st_gid):
        os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, like.st_mode & 0o7777)
