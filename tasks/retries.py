"""When a task is tried again: only after an error that may pass by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from pgferry.errors import is_transient


class Policy(TypedDict):
    """The arguments of `prefect.task` that say how it is tried again."""

    retries: int
    retry_delay_seconds: Callable[[int], list[float]]
    retry_jitter_factor: float
    retry_condition_fn: Callable[[Task[Any, Any], TaskRun, State[Any]], bool]
    persist_result: bool


def may_pass(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Say whether the failure of a task run is worth another try."""
    try:
        state.result()
    except Exception as error:
        return is_transient(error)
    return False


TRANSIENT = Policy(
    # 2, 4, 8, 16 and 32 seconds, each up to half longer: together about a minute, in which a server restarts or
    # a network recovers; the jitter keeps parallel chunks from coming back all at once.
    retries=5,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
    retry_condition_fn=may_pass,
    # A result that is kept is a cache that knows nothing of the target: only the ledger says what is done. Not kept by
    # word, and not by default, because Prefect would hash every argument for its key: a second for a large plan.
    persist_result=False,
)
