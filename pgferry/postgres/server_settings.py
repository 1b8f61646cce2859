"""The settings of the embedded server: `pgferry.conf` in its data folder, included by postgresql.conf."""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from pgferry.errors import Permanent
from pgferry.postgres.place import Place, give
from pgferry.quoting import literal

_OWN = ("port", "listen_addresses", "unix_socket_directories")
_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103  # sockaddr_un


def defaults() -> dict[str, str]:
    """Return the settings of a new server, unless the caller gives others."""
    settings = {"max_wal_size": "4GB", "timezone": "UTC", "log_timezone": "UTC"}
    if _is_small(Path("/dev/shm")):
        # A container's 64 MB are soon too few for parallel queries, which then fail with "No space left on device".
        settings["dynamic_shared_memory_type"] = "sysv"
    return settings


def _is_small(shared_memory: Path) -> bool:
    if not shared_memory.is_dir():
        return False
    space = os.statvfs(shared_memory)
    return space.f_blocks * space.f_frsize < 2**30


def check(settings: Mapping[str, str]) -> None:
    """Raise Permanent for what cannot be a setting, and for those that the server's place decides."""
    for name, value in settings.items():
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII) or name in _OWN or "\n" in value:
            raise Permanent(
                f"{name} = {value!r} cannot be a setting of the embedded server.",
                f"Give PostgreSQL settings other than {', '.join(_OWN)}.",
            )


def read(place: Place) -> dict[str, str]:
    """Return the settings that the server was last started with; none before its first start."""
    try:
        text = (place.data / "pgferry.conf").read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return {}
    found = re.findall(r"^([\w.]+) = '(.*)'$", text, re.MULTILINE)
    return {name: value.replace("''", "'").replace("\\\\", "\\") for name, value in found}


def write(place: Place, settings: Mapping[str, str]) -> None:
    """Write the settings for the next start."""
    # Unlike SQL, a configuration file takes a backslash as the start of an escape.
    lines = [f"{name} = {literal(value.replace(chr(92), chr(92) * 2))}" for name, value in settings.items()]
    header = "# Written by pgferry at each start; put settings of your own into postgresql.conf, below the include."
    replace_file(place.data / "pgferry.conf", "\n".join([header, *lines, ""]), place)


def addresses(place: Place, port: int) -> dict[str, str]:
    """Return the settings of where the server listens: 127.0.0.1, and a socket when its path is short enough."""
    path = os.fsencode(place.data / f".s.PGSQL.{port}")
    fits = len(path) <= _SOCKET_PATH_BYTES and not re.search(rb"[,\"']", path)
    return {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(place.data) if fits else ""}


def free_port(wanted: int = 0) -> int | None:
    """Return the wanted port of 127.0.0.1 if it is free, any free one for 0, or None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return None
        return int(probe.getsockname()[1])


def replace_file(path: Path, text: str, place: Place) -> None:
    """Write a file of the data folder, atomically."""
    # A new file moved into place: root must not write through a link that the server's account could plant.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    write_private(draft, text)
    give(draft, place.account)
    draft.replace(path)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
