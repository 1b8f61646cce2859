"""The process of a cluster that a task runs in: which one it is, and what it must have of its own."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from pgferry.errors import Permanent
from pgferry.model import Snapshot


def cluster_process() -> str | None:
    """Return the name of the Dask or Ray process that this is, `host:pid`; None in the flow's own process."""
    return f"{socket.gethostname()}:{os.getpid()}" if _in_dask() or _in_ray() else None


def by_whom() -> str:
    """Return what a task's line in the log says of its process; nothing in the flow's own."""
    process = cluster_process()
    return f" By {process}." if process else ""


def require_snapshot(snapshot: Snapshot) -> None:
    """Make sure that a cluster's process can read the snapshot, and that it is no other file of that name.

    Raises Permanent, naming the process.
    """
    process = cluster_process()
    if process is None:
        return
    try:
        found = Path(snapshot.path).stat().st_size
    except OSError as error:
        raise Permanent(
            f"The snapshot {snapshot.path} cannot be read by the cluster's process {process}: {error.strerror}.",
            "Put PGFERRY_HOME on a disk that all machines share, or copy the file to that path on each of them.",
        ) from error
    if found != snapshot.bytes:
        raise Permanent(
            f"The file {snapshot.path} of the cluster's process {process} has {found} bytes, and the snapshot"
            f" {snapshot.bytes}.",
            "Copy the snapshot to that path once more, or put PGFERRY_HOME on a disk that all machines share.",
        )


def _in_dask() -> bool:
    # Asked of what is loaded: importing it here would cost a second, and the extra may not be installed.
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _in_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE
