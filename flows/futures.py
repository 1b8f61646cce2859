"""Tasks handed to the task runner, and their results taken."""

from __future__ import annotations

import copyreg
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from prefect import Task
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture
from prefect.utilities.annotations import opaque

from flows.runner import explain_loss, explain_silence, in_this_process
from pgferry.errors import FerryError
from pgferry.interrupts import hides_interrupt

R = TypeVar("R")

_waited_for: WeakKeyDictionary[PrefectFuture[Any], tuple[PrefectFuture[Any], ...]] = WeakKeyDictionary()
"""Future -> those that it waits for, as long as somebody holds it."""


# Prefect's annotation is a tuple of one, and comes out of a pickle as a tuple of a tuple: a process of a cluster would
# be given the latter instead of the value.
copyreg.pickle(opaque, lambda annotated: (opaque, (annotated[0],)))


def submit(task: Task[..., R], *arguments: Any, after: Sequence[PrefectFuture[Any]] = ()) -> PrefectFuture[R]:
    """Run a task beside others; futures among its arguments, and those in `after`, are waited for first.

    A future is an argument itself, or an item of a list. With a cluster the arguments are pickled, each time: whoever
    hands a plan on makes it small before.
    """
    try:
        future = task.submit(*map(_whole, arguments), wait_for=list(after), return_state=False)
    except OSError as error:
        raise explain_silence(error) from error
    _waited_for[future] = (*_futures(arguments), *after)
    return future


def call(task: Task[..., R], *arguments: Any) -> R:
    """Run a task here and now, and return its result; raises what it raises, and a Ctrl-C as what it is."""
    try:
        return task(*map(_whole, arguments), return_state=False)
    except Exception as error:
        # One that comes while Prefect begins a task run ends as "Task run is not set".
        if hides_interrupt(error):
            raise KeyboardInterrupt from error
        raise


@contextmanager
def with_result(result: Mapping[str, Any]) -> Iterator[None]:
    """Let an error of the block carry what the flow has done all the same, for whoever shows it."""
    try:
        yield
    except FerryError as error:
        error.details["result"] = result
        raise


def results(futures: Iterable[PrefectFuture[R]]) -> list[R]:
    """Take every result: a flow is Completed although a task failed whose result nobody took.

    Raises the error of the first task that failed by itself.
    """
    return [_result(future) for future in futures]


def _result(future: PrefectFuture[R]) -> R:
    try:
        return future.result()
    except UnfinishedRun:
        # It never began, because a task before it failed; a person needs to know why that one did.
        results(_waited_for.get(future, ()))
        raise
    except Exception as error:
        lost = explain_loss(error)
        if lost is None:
            raise
        raise lost from error


def _futures(arguments: Iterable[Any]) -> Iterator[PrefectFuture[Any]]:
    for argument in arguments:
        items = argument if isinstance(argument, list) else [argument]
        yield from (item for item in items if isinstance(item, PrefectFuture))


def _whole(argument: Any) -> Any:
    # Prefect looks for futures in everything that an argument holds, dataclasses too: handing on the plan of a
    # thousand tables took four seconds of CPU time a task. An opaque value is only asked whether it is one itself.
    if isinstance(argument, PrefectFuture) and not in_this_process():
        return argument  # Dask would put its result into a tuple, for such is an annotation
    return argument if isinstance(argument, list) else opaque(argument)
