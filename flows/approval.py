"""A person's word before a step that turns or ends a move: the flow run pauses until somebody gives it in the UI."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from pgferry.errors import Permanent
from pgferry.live.gates import Gate
from pgferry.progress import reporter
from pgferry.report import markdown_cell, markdown_table

POLL_SECONDS = 2
"""How often the flow run looks whether it was approved."""


class Approval(RunInput):
    """What the person who approves says."""

    approver: str = Field(min_length=1, description="Your name, for the record")
    confirm: str = Field(min_length=1, description="The name of the target's database, to confirm that this is meant")


def ask_for_approval(step: str, what: str, database: str, timeout: float, gates: Sequence[Gate] = ()) -> str:
    """Pause until somebody approves the `step`, and return who did; `what` says in a sentence what will happen.

    Raises Permanent when nobody does within `timeout` seconds, or the database that is named is another one. No lock
    may be held meanwhile, and what was found before is to be looked at anew.
    """
    reporter().step("wait for a person's approval in the Prefect UI")
    asked = Approval.with_initial_data(description=_question(what, database, gates))
    try:
        answer = pause_flow_run(wait_for_input=asked, timeout=int(timeout), poll_interval=POLL_SECONDS, key="approval")
    except FlowPauseTimeout as error:
        raise Permanent(
            f"Nobody approved the {step} within {timeout:g} s.", "Run it again; PGFERRY_APPROVAL_TIMEOUT is the limit."
        ) from error
    if answer.confirm != database:
        raise Permanent(
            f"{answer.approver} confirmed the database {answer.confirm!r}, but the {step} is of {database!r}.",
            f"Nothing was changed. Run the {step} again.",
        )
    return answer.approver


def _question(what: str, database: str, gates: Sequence[Gate]) -> str:
    asked = f"{what} To approve, name the database: `{database}`."
    if not gates:
        return asked
    rows = [[markdown_cell(gate.name), markdown_cell(gate.measured), markdown_cell(gate.needed)] for gate in gates]
    return f"{asked} All gates are open:\n\n{markdown_table(['gate', 'measured', 'needed'], rows)}"
