"""What is tried again, what is not, and what handing arguments to a task may not do."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

import tasks
from pgferry.errors import Permanent, Transient


@pytest.fixture(autouse=True)
def recorded(prefect_api: str) -> str:
    return prefect_api


def project_tasks() -> Iterator[Any]:
    from prefect import Task

    for module in pkgutil.iter_modules(tasks.__path__, "tasks."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Task):
                yield value


def test_every_task_that_is_tried_again_follows_the_policy_and_keeps_no_result() -> None:
    from prefect.cache_policies import NO_CACHE

    from tasks.retries import may_pass

    found = [each for each in project_tasks() if each.retries]
    assert len({each.name for each in found}) > 12
    for each in found:
        assert each.retry_condition_fn is may_pass, each.name
        assert each.retry_delay_seconds == [2, 4, 8, 16, 32], each.name
        assert (each.persist_result, each.cache_policy) == (False, NO_CACHE), each.name


def test_a_transient_error_is_tried_again_until_it_has_passed() -> None:
    assert attempts_of(Transient("The server restarts.", "Wait."), failures=2) == 3


@pytest.mark.parametrize("error", [Permanent("The table is missing.", "Create it."), ValueError("a defect")])
def test_any_other_error_is_not_tried_again(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        attempts_of(error, failures=2)
    assert len(ATTEMPTS) == 1


ATTEMPTS: list[int] = []


def attempts_of(error: Exception, failures: int) -> int:
    """Run a task with the project's policy that fails so often, and return how often it was tried."""
    from prefect import flow, task

    from tasks.retries import TRANSIENT

    ATTEMPTS.clear()

    @task(**TRANSIENT)
    def work() -> int:
        ATTEMPTS.append(1)
        if len(ATTEMPTS) <= failures:
            raise error
        return len(ATTEMPTS)

    @flow
    def probe() -> int:
        return work.with_options(retry_delay_seconds=0)()

    return probe()


@dataclass(frozen=True)
class Tables:
    """Stands for the thousand tables of a plan: tells when somebody looks into it."""

    names: tuple[str, ...] = ("items",)

    def __getattribute__(self, name: str) -> Any:
        if name in ("names", "__dict__"):
            LOOKED_AT.append(name)
        return super().__getattribute__(name)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        LOOKED_AT.append("pickled")
        raise TypeError("is not to be pickled")


@dataclass(frozen=True)
class Plan:
    tables: Tables


LOOKED_AT: list[str] = []


def test_prefect_does_not_walk_through_what_is_handed_to_a_task() -> None:
    from prefect import flow, task

    from flows.futures import call, results, submit
    from tasks.retries import TRANSIENT

    @task(**TRANSIENT)
    def make(plan: Plan) -> Plan:
        return plan

    @task(task_run_name="use {number}", **TRANSIENT)
    def use(first: Plan, second: Plan, number: int) -> tuple[bool, int]:
        return first is second, number

    @flow
    def probe() -> Any:
        plan = Plan(Tables())
        return [*results([submit(use, plan, submit(make, plan), 1)]), call(use, plan, plan, 2)]

    LOOKED_AT.clear()
    assert probe() == [(True, 1), (True, 2)]
    assert LOOKED_AT == []
    assert Tables().names == ("items",)
    assert LOOKED_AT == ["names"]


def test_the_result_of_a_waiting_task_is_the_error_of_the_one_that_failed() -> None:
    from prefect import flow, task

    from flows.futures import results, submit

    @task
    def fail() -> int:
        raise Permanent("The disk is full.", "Make room.")

    @task
    def add(numbers: list[int]) -> int:
        return sum(numbers)

    @flow
    def probe() -> list[int]:
        first = submit(add, [submit(fail)])
        return results([submit(add, [1], after=[first])])

    with pytest.raises(Permanent, match=r"The disk is full\. Make room\."):
        probe()
