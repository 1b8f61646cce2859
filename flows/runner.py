"""What runs the tasks: threads of this process, or the processes of a Dask or Ray cluster, as the settings choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from pgferry.errors import FerryError, Transient, UsageError
from pgferry.model import Chunk
from pgferry.progress import reporter
from pgferry.settings import Settings, load_settings

Runner = TaskRunner[PrefectFuture[Any]]

THREADS_PER_PROCESS = 2
"""Tasks that a process of a temporary cluster has in work at once: one reads or waits while another one computes."""

_LOST = frozenset(
    (
        "KilledWorker",  # distributed: the processes that worked on a task died, one after the other
        "CommClosedError",
        "FutureCancelledError",
        "NoValidWorkerError",
        "WorkerCrashedError",  # ray
        "NodeDiedError",
        "RaySystemError",
        "OwnerDiedError",
    )
)
"""Names of the errors by which a cluster tells that it lost what it worked on."""


def lanes() -> Runner:
    """Return the task runner that the settings choose; raises UsageError when its package is not installed."""
    try:
        settings = load_settings()
    except UsageError:
        # Said by the flow's first step, in words, and not here while the module loads.
        return _threads(2)
    if settings.task_runner == "threads":
        return _threads(settings.parallelism)
    try:
        return _dask(settings) if settings.task_runner == "dask" else _ray(settings)
    except ImportError as error:
        raise UsageError(
            f"PGFERRY_TASK_RUNNER={settings.task_runner} needs a package that is not installed: {error}.",
            f"Install the extra pgferry[{settings.task_runner}], or leave PGFERRY_TASK_RUNNER away.",
        ) from error


def in_this_process() -> bool:
    """Say whether the tasks of the flow that runs share its memory."""
    context = FlowRunContext.get()
    return context is None or isinstance(context.task_runner, ThreadPoolTaskRunner)


def begun_elsewhere(tables: Iterable[str]) -> None:
    """Tell this process's listener that work on tables begins, where the tasks can only tell that of their own."""
    if not in_this_process():
        for table in tables:
            reporter().exported(table, 0)


def told_elsewhere(chunks: Iterable[Chunk], tell: Callable[[str, int], None]) -> None:
    """Tell this process's listener of chunks that are done, where the tasks could only tell that of their own."""
    if not in_this_process():
        for chunk in chunks:
            tell(chunk.table, chunk.rows)


def explain_loss(error: BaseException) -> FerryError | None:
    """Return our error for a cluster's that lost what it worked on, or None for any other."""
    if not any(known.__name__ in _LOST for known in type(error).__mro__):
        return None
    return Transient(
        f"The cluster that ran the tasks lost some of them: {_detail(error)}.",
        "See the logs of its workers, and whether their memory is enough; then run the same command again, it goes on"
        " where it stopped.",
    )


def explain_silence(error: BaseException) -> FerryError:
    """Return our error for what handing a task to the cluster raised."""
    if isinstance(error, FerryError):
        return error
    address = load_settings().task_runner_address
    return Transient(
        f"The cluster{f' at {address}' if address else ''} does not answer: {_detail(error)}.",
        "See whether its scheduler and workers run, and check PGFERRY_TASK_RUNNER_ADDRESS; then run the same command"
        " again.",
    )


def _detail(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _threads(parallelism: int) -> Runner:
    # An export and a load at once for each degree of parallelism, and room for those that wait.
    return cast("Runner", ThreadPoolTaskRunner(max_workers=2 * parallelism + 2))


def _dask(settings: Settings) -> Runner:
    from prefect_dask.task_runners import DaskTaskRunner

    if settings.task_runner_address:
        return cast("Runner", DaskTaskRunner(address=settings.task_runner_address))
    local = {
        "n_workers": settings.parallelism,
        "threads_per_worker": THREADS_PER_PROCESS,
        "dashboard_address": "127.0.0.1:0",
        # Certificates of its own: whoever may connect to a scheduler can run code as its user.
        "security": True,
    }
    return cast("Runner", DaskTaskRunner(cluster_kwargs=local))


def _ray(settings: Settings) -> Runner:
    from prefect_ray.task_runners import RayTaskRunner

    if settings.task_runner_address:
        return cast("Runner", RayTaskRunner(address=settings.task_runner_address))
    lanes_of_it = settings.parallelism * THREADS_PER_PROCESS
    return cast("Runner", RayTaskRunner(init_kwargs={"num_cpus": lanes_of_it, "include_dashboard": False}))
