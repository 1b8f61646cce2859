"""The application's .env: what python-dotenv reads afterwards, what stays byte for byte, and what a crash leaves."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from pgferry.errors import Permanent
from pgferry.live.env_file import read_variable, replace_variable, restore

OLD = "sqlite+aiosqlite:///./app.db"
NEW = "postgresql+asyncpg://user:p%40ss@localhost:5432/app?ssl=require&x=1"
NAME = "DATABASE_URL"


@pytest.fixture
def env(tmp_path: Path) -> Path:
    return tmp_path / "app" / ".env"


def write(env: Path, content: bytes) -> Path:
    env.parent.mkdir(exist_ok=True)
    env.write_bytes(content)
    return env


def replaced(env: Path, content: bytes, value: str = NEW) -> bytes:
    """Return what becomes of a file, after checking what every case must have."""
    keep = env.parent.parent / "kept" / "env.old"
    replace_variable(write(env, content), NAME, value, keep)
    assert dotenv_values(env)[NAME] == read_variable(env, NAME) == value
    assert keep.read_bytes() == content
    assert sorted(path.name for path in env.parent.iterdir()) == [".env"]
    return env.read_bytes()


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"DATABASE_URL=old\n", b"DATABASE_URL=new\n"),
        (b"DATABASE_URL=old", b"DATABASE_URL=new"),
        (b"export DATABASE_URL = old \r\nA=1\r\n", b"export DATABASE_URL = new \r\nA=1\r\n"),
        (b'DATABASE_URL="old"   # why\n', b'DATABASE_URL="new"   # why\n'),
        (b"DATABASE_URL='old'# why\n", b"DATABASE_URL='new'# why\n"),
        (b"DATABASE_URL=old#part # why\n", b"DATABASE_URL=new # why\n"),
        (b"DATABASE_URL= # nothing yet\n", b"DATABASE_URL= new # nothing yet\n"),
        (b"DATABASE_URL=\n\nA=1\n", b"DATABASE_URL=new\n\nA=1\n"),
        (b'DATABASE_URL=""\n', b'DATABASE_URL="new"\n'),
        (b"DATABASE_URL='two\nlines'\nA=1\n", b"DATABASE_URL='new'\nA=1\n"),
        (b"'DATABASE_URL'=old\n", b"'DATABASE_URL'=new\n"),
        (b"\n\n  DATABASE_URL=old\n", b"\n\n  DATABASE_URL=new\n"),
        (b"DATABASE_URL=a\nB=1\nDATABASE_URL='b'\n", b"DATABASE_URL=new\nB=1\nDATABASE_URL='new'\n"),
        (b"A='x\nDATABASE_URL=inside\n'\nDATABASE_URL=old\n", b"A='x\nDATABASE_URL=inside\n'\nDATABASE_URL=new\n"),
        (b"# DATABASE_URL=off\nMY_DATABASE_URL=x\nDATABASE_URL=old\n", None),
        (b"DATABASE_URL\nDATABASE_URL=old\n", b"DATABASE_URL\nDATABASE_URL=new\n"),
        (b"this is no line 'of\nDATABASE_URL=old\r", b"this is no line 'of\nDATABASE_URL=new\r"),
        (b"\xff\xfe=\x80 \nDATABASE_URL=old\n", b"\xff\xfe=\x80 \nDATABASE_URL=new\n"),
        ("Ä=ö\u2028\nDATABASE_URL=old\n".encode(), "Ä=ö\u2028\nDATABASE_URL=new\n".encode()),
        (b"A=${DATABASE_URL}\nDATABASE_URL=${B}old\n", b"A=${DATABASE_URL}\nDATABASE_URL=new\n"),
    ],
)
def test_only_the_value_changes(env: Path, before: bytes, after: bytes | None) -> None:
    if b"\xff" in before:
        # python-dotenv itself does not read such a file by its default; what is written is what counts.
        keep = env.parent / "old"
        replace_variable(write(env, before), NAME, "new", keep)
        assert env.read_bytes() == after
        return
    assert replaced(env, before, "new") == (after or before.replace(b"\nDATABASE_URL=old", b"\nDATABASE_URL=new"))


def test_a_byte_order_mark_stays(env: Path) -> None:
    keep = env.parent / "old"
    replace_variable(write(env, b"\xef\xbb\xbfDATABASE_URL=old\r\nA=1"), NAME, NEW, keep)
    assert env.read_bytes() == b"\xef\xbb\xbfDATABASE_URL=" + NEW.encode() + b"\r\nA=1"
    assert read_variable(env, NAME) == NEW


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (NEW, NEW),
        ("a b", "'a b'"),
        ("a#b", "'a#b'"),
        (" #x", "' #x'"),
        ("pa$$word$HOME", "'pa$$word$HOME'"),
        ('say "hi"', "'say \"hi\"'"),
        ("it's", '"it\'s"'),
        ('it\'s "it"', '"it\'s \\"it\\""'),
        ("a\\nb\\", '"a\\\\nb\\\\"'),
        ("pässwört", "'pässwört'"),
    ],
)
@pytest.mark.parametrize("before", ["old", "'old'", '"old"'])
def test_a_value_is_quoted_so_that_it_is_read_back(env: Path, value: str, written: str, before: str) -> None:
    plain = value == written
    quote = before[0] if plain and before[0] in "'\"" else ""
    after = replaced(env, f"DATABASE_URL={before} # why\nB=2\n".encode(), value)
    assert after.decode() == f"DATABASE_URL={quote}{written}{quote} # why\nB=2\n"


LINES = st.sampled_from(
    [
        "A=1\n",
        "\n",
        "# DATABASE_URL=no\n",
        "export B='x y'\r\n",
        'C="two\nDATABASE_URL=inside\n"\n',
        "D\n",
        "=\n",
        "DATABASE_URL=x # y\n",
        "DATABASE_URL='x'\r\n",
        'export DATABASE_URL = "x\\"y"#z\n',
        "DATABASE_URL=\n",
        "E='open\n",
        "F= # only a comment\n",
        "DATABASE_URL=a b#c\r",
        "  \t\n",
        "G=${A}\n",
    ]
)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"])).filter(
    lambda text: text.isprintable() and "${" not in text
)


@given(lines=st.lists(LINES), value=VALUES)
def test_any_value_in_any_file_is_read_back_and_the_rest_is_as_it_was(lines: list[str], value: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        env, keep = Path(folder, ".env"), Path(folder, "old")
        before = "".join([*lines, "DATABASE_URL=last"]).encode()
        env.write_bytes(before)
        others = dotenv_values(env)
        if others.pop(NAME, None) is None:
            return  # an open quote before it swallows it
        try:
            replace_variable(env, NAME, value, keep)
        except Permanent:
            # A value that would close the quote which another line leaves open is refused, and nothing changes.
            assert "E='open\n" in lines and "'" in value
            assert env.read_bytes() == before
            return
        after = dotenv_values(env)
        assert after.pop(NAME) == value
        assert after == others
        restore(env, keep, NAME)
        assert env.read_bytes() == before


def test_a_quote_that_another_line_leaves_open_is_not_closed(env: Path) -> None:
    assert replaced(env, b"A='open\nDATABASE_URL=old\n", "a b") == b'A=\'open\nDATABASE_URL="a b"\n'
    write(env, b"A='open\nB=\"open\nDATABASE_URL=old\n")
    with pytest.raises(Permanent, match="it would change other lines"):
        replace_variable(env, NAME, "a b", env.parent / "old")
    assert env.read_bytes() == b"A='open\nB=\"open\nDATABASE_URL=old\n"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("content", [b"", b"A=1\n", b"DATABASE_URL\n", b"# DATABASE_URL=x\n", b"database_url=x\n"])
def test_a_missing_variable_is_named_with_its_file(env: Path, content: bytes) -> None:
    write(env, content)
    with pytest.raises(Permanent, match=rf"{env} does not set DATABASE_URL\. .*PGFERRY_APPLICATION_VARIABLE"):
        replace_variable(env, NAME, NEW, env.parent / "old")
    assert env.read_bytes() == content
    assert not (env.parent / "old").exists()
    assert read_variable(env, NAME) is None


def test_a_missing_file_is_named(env: Path) -> None:
    assert read_variable(env, NAME) is None
    with pytest.raises(Permanent, match=rf"There is no file {env}"):
        replace_variable(env, NAME, NEW, env.parent / "old")


@pytest.mark.parametrize("value", ["a${B}c", "a\nb", "a\rb", "a\x00b", "a\tb", "\u2028"])
def test_a_value_that_would_not_come_back_is_refused_and_not_shown(env: Path, value: str) -> None:
    write(env, b"DATABASE_URL=old\n")
    with pytest.raises(Permanent, match=rf"{env} cannot hold the new value of DATABASE_URL") as refused:
        replace_variable(env, NAME, f"secret{value}", env.parent / "old")
    assert "secret" not in str(refused.value)
    assert env.read_bytes() == b"DATABASE_URL=old\n"


def test_a_folder_is_no_file(env: Path) -> None:
    env.mkdir(parents=True)
    with pytest.raises(Permanent, match=rf"{env} cannot be read: Is a directory"):
        read_variable(env, NAME)


@pytest.mark.parametrize("locked", ["folder", "file"])
def test_a_file_that_may_not_be_replaced_is_named(locked: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pgferry-env-"))
    env, keep = folder / ".env", folder / "kept" / "old"
    try:
        env.write_bytes(b"DATABASE_URL=old\n")
        (folder / "kept").mkdir(mode=0o777)
        (folder / "kept").chmod(0o777)
        env.chmod(0o000 if locked == "file" else 0o444)
        folder.chmod(0o555)
        said = rf"{env} cannot be \w+: Permission denied\. .*{folder}"
        with without_privileges(), pytest.raises(Permanent, match=said):
            replace_variable(env, NAME, NEW, keep)
        env.chmod(0o644)
        assert env.read_bytes() == b"DATABASE_URL=old\n"
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@contextlib.contextmanager
def without_privileges():
    """Work as an ordinary account: the administrator may write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# ---------------------------------------------------------------- the file itself


def test_mode_and_owner_are_kept(env: Path) -> None:
    write(env, b"DATABASE_URL=old\n").chmod(0o640)
    owner = (4711, 4712) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(env, *owner)
    replaced(env, env.read_bytes())
    found = env.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, *owner)
    assert stat.S_IMODE((env.parent.parent / "kept" / "env.old").stat().st_mode) == 0o600


def test_behind_a_link_the_file_is_replaced_and_the_link_stays(env: Path) -> None:
    real = write(env.parent.parent / "shared" / "env", b"DATABASE_URL=old\n")
    env.parent.mkdir()
    middle = env.parent / "middle"
    middle.symlink_to("../shared/env")
    env.symlink_to("middle")
    keep = env.parent / "old"
    replace_variable(env, NAME, NEW, keep)
    assert env.is_symlink()
    assert middle.is_symlink()
    assert not real.is_symlink()
    assert read_variable(real, NAME) == NEW
    assert keep.read_bytes() == b"DATABASE_URL=old\n"
    restore(env, keep)
    assert real.read_bytes() == b"DATABASE_URL=old\n"
    assert env.is_symlink()


def test_the_same_value_again_keeps_what_was_kept(env: Path) -> None:
    keep = env.parent / "old"
    replace_variable(write(env, b"DATABASE_URL=old\n"), NAME, NEW, keep)
    replace_variable(env, NAME, NEW, keep)
    assert keep.read_bytes() == b"DATABASE_URL=old\n"


def test_a_restored_file_is_as_it_was(env: Path) -> None:
    before = b"# mine\r\nexport DATABASE_URL = 'old' # why\r\nDATABASE_URL=again"
    keep = env.parent / "old"
    write(env, before).chmod(0o600)
    replace_variable(env, NAME, NEW, keep)
    restore(env, keep)
    assert env.read_bytes() == before
    assert keep.exists()
    env.unlink()
    restore(env, keep)
    assert (env.read_bytes(), stat.S_IMODE(env.stat().st_mode)) == (before, 0o600)


def test_only_the_variable_is_restored_where_other_lines_have_changed(env: Path) -> None:
    keep = env.parent / "old"
    replace_variable(write(env, b"A=1\nDATABASE_URL='old' # why\n"), NAME, NEW, keep)
    env.write_bytes(env.read_bytes().replace(b"A=1", b"A=2") + b"B=3\nDATABASE_URL=x\n")
    restore(env, keep, NAME)
    assert env.read_bytes() == b"A=2\nDATABASE_URL='old' # why\nB=3\nDATABASE_URL='old'\n"


# ---------------------------------------------------------------- crashes

STOPPED = """
import os, signal, sys
from pathlib import Path
from pgferry.live.env_file import replace_variable

calls, rename = [], os.replace
def stop(source, target):
    calls.append(target)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.replace = stop
replace_variable(Path(sys.argv[1]), "DATABASE_URL", "new", Path(sys.argv[2]))
"""

BUSY = """
import sys
from pathlib import Path
from pgferry.live.env_file import replace_variable

print("ready", flush=True)
for number in range(10**9):
    replace_variable(Path(sys.argv[1]), "DATABASE_URL", "even" if number % 2 else "odd", Path(sys.argv[2]))
"""


@pytest.mark.parametrize("rename", [1, 2], ids=["of the kept file", "of the file"])
def test_killed_before_a_rename_the_old_file_is_there_and_the_next_try_cleans_up(env: Path, rename: int) -> None:
    write(env, b"DATABASE_URL=old\n")
    keep = env.parent / "old"
    done = subprocess.run([sys.executable, "-c", STOPPED, env, keep, str(rename)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert env.read_bytes() == b"DATABASE_URL=old\n"
    assert len(list(env.parent.glob("*.pgferry-new"))) == 1
    replace_variable(env, NAME, NEW, keep)
    assert (read_variable(env, NAME), keep.read_bytes()) == (NEW, b"DATABASE_URL=old\n")
    assert list(env.parent.glob("*.pgferry-new")) == []


def test_killed_at_any_moment_the_file_is_whole(env: Path) -> None:
    rest = b"A=1\n" * 5_000
    write(env, b"DATABASE_URL=old\n" + rest)
    for number in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", BUSY, env, env.parent / "old"], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.02 + 0.013 * number)
            process.kill()
        value, _newline, others = env.read_bytes().partition(b"\n")
        assert value in (b"DATABASE_URL=old", b"DATABASE_URL=even", b"DATABASE_URL=odd")
        assert others == rest
