"""Where the embedded server's files lie, and the account that it runs under.

PostgreSQL refuses to run as root. Then an unprivileged account runs it and owns the data folder, and what that account
must reach lies where it can.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from pgferry.errors import Permanent
from pgferry.postgres.binaries import Account, run
from pgferry.private import make_folder, write_text

OUTSIDE = (Path("/var/lib"), Path("/var/tmp"))
"""Where the data goes when the account cannot reach the home. /var/tmp comes last: some systems empty it by age."""


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one embedded server: `folder` is HOME/postgres, `store` holds the data folder and programs.

    The two are the same folder unless the server's account cannot reach HOME; then the file `store` in `folder` says
    where the data is.
    """

    folder: Path
    store: Path
    account: Account | None

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.store / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "server.log"

    @property
    def passwords(self) -> Path:
        """The password file (mode 0600, the form of libpq's PGPASSFILE)."""
        return self.folder / "pgpass"


def find_place(home: Path) -> Place:
    """Return the place of a home's server as it is now; nothing is made."""
    folder = home.absolute() / "postgres"
    pointer = folder / "store"
    store = Path(pointer.read_text("utf-8").strip()) if pointer.exists() else folder
    return Place(folder, store, _owner(store / "data"))


def make_place(home: Path) -> Place:
    """Return the place of a home's server, its folders made, reachable by the account that will run the server."""
    known = find_place(home)
    make_folder(known.folder)
    if known.data.exists():
        return known
    account = unprivileged()
    known.folder.chmod(0o700 if account is None else 0o711)
    pointer = known.folder / "store"
    if account is None or _reaches(account, known.folder):
        pointer.unlink(missing_ok=True)
        return Place(known.folder, known.folder, account)
    store = known.store if _reaches(account, known.store) else _outside(account)
    write_text(pointer, f"{store}\n")
    return Place(known.folder, store, account)


def unprivileged() -> Account | None:
    """Return the account to run the server under; None is the caller's own. Raises Permanent when root finds none."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    for account in _accounts():
        if run(Path("/bin/sh"), "-c", "true", account=account).code == 0:
            return account
    raise Permanent(
        "PostgreSQL does not run as root, and this machine has no other account to run it under.",
        "Run pgferry as a normal user, or add an account (useradd --system postgres), or name a target server.",
    )


def give(path: Path, account: Account | None) -> None:
    """Make the account the owner of a file or an empty folder."""
    if account is not None:
        os.chown(path, *account, follow_symlinks=False)


def _accounts() -> Iterator[Account]:
    import pwd  # Not on Windows.

    entries = [entry for entry in pwd.getpwall() if entry.pw_uid > 0]
    entries.sort(
        key=lambda entry: ("postgres", "nobody").index(entry.pw_name) if entry.pw_name in ("postgres", "nobody") else 2
    )
    yield from ((entry.pw_uid, entry.pw_gid) for entry in entries)


def _owner(data: Path) -> Account | None:
    # The server runs under the data folder's owner: PostgreSQL insists on it.
    if sys.platform == "win32" or os.geteuid() != 0 or not data.exists():
        return None
    status = data.stat()
    return (status.st_uid, status.st_gid)


def _reaches(account: Account, folder: Path) -> bool:
    return run(Path("/bin/sh"), "-c", 'cd "$1"', "sh", str(folder), account=account).code == 0


def _outside(account: Account) -> Path:
    for parent in OUTSIDE:
        try:
            # A name that nobody can foresee: /var/tmp is open to all.
            store = Path(mkdtemp(prefix="pgferry-", dir=parent))
        except OSError:
            continue
        store.chmod(0o711)
        if _reaches(account, store):
            return store
        shutil.rmtree(store)
    raise Permanent(
        f"No folder was found that the server's account (user id {account[0]}) can reach.",
        "Set PGFERRY_HOME to a folder whose parents are open to all (mode 755), or run pgferry as a normal user.",
    )
