"""What happens when something is wrong: the automations that come with the project start this flow."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow
from prefect.runtime import flow_run

from flows.choices import AlertKind
from flows.futures import call
from pgferry.errors import UsageError
from pgferry.progress import reporter
from pgferry.settings import load_settings
from tasks.alert import keep_alert, notify


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of alert: what is told where the event says nothing, and what to do."""

    title: str
    summary: str
    advice: tuple[str, ...]


_LOOK = "Look at the Markdown artifact of the flow run{run}."

KINDS = {
    "validation": Kind(
        "The validation of `{source}` failed",
        "SQLite and PostgreSQL differ.",
        (
            "Look at the first differences: the Markdown artifact of the flow run{run}.",
            "Mend them from the side in front, and compare again: `python -m flows validate --repair`.",
            "See where the move stands: `python -m flows status`.",
        ),
    ),
    "breach": Kind(
        "A threshold is crossed: `{source}`",
        "A number of the monitor is beyond its threshold.",
        (_LOOK, "See what it is now: `python -m flows monitor`."),
    ),
    "lag": Kind(
        "The sync of `{source}` lags",
        "The side behind is behind for too long.",
        (
            "See whether the deployment `sync` runs, and what its last run says.",
            "Carry by hand: `python -m flows sync`.",
            "See where the move stands: `python -m flows status`.",
        ),
    ),
    "crash": Kind(
        "A flow run crashed",
        "Its process ended without a word: killed, out of memory, or the machine went down.",
        (
            "Look at the end of the log of the flow run{run}.",
            "Run the same again: it goes on where it was, and nothing is done twice.",
            "See where a live move stands: `python -m flows status`.",
        ),
    ),
}


@flow(name="alert", flow_run_name="alert: {summary}")
def alert(
    summary: str = "", source: str = "", found_by: str = "", block: str = "", kind: AlertKind = "validation"
) -> dict[str, str]:
    """Tell what is wrong: in the log, as an artifact, and by a notification where a block is named.

    Args:
        summary: what was found, in a sentence.
        source: what it is about: the SQLite file of the move, or the database that is watched.
        found_by: the id of the flow run that found it, or that crashed.
        block: the notification block that is to send it, as `type/name`; empty for PGFERRY_ALERT_BLOCK, and without
            that for none.
        kind: `validation`, `breach`, `lag` or `crash`: what is told besides.

    Returns:
        The subject and the text that were told.
    """
    reporter().run(str(flow_run.id))
    chosen = _kind(kind)
    subject = f"pgferry: {f'{source}: ' if source else ''}{summary or chosen.summary}"
    text = _text(chosen, summary, source, found_by)

    # 1. For whoever looks at the Prefect UI.
    call(keep_alert, subject, text)

    # 2. For whoever does not.
    named = block or load_settings().alert_block
    if named:
        call(notify, named, subject, text)
    return {"subject": subject, "text": text}


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise UsageError(f"There is no kind of alert {name!r}.", f"Give one of {', '.join(KINDS)}.")
    return KINDS[name]


def _text(kind: Kind, summary: str, source: str, found_by: str) -> str:
    run = f" `{found_by}`" if found_by else " that found it"
    lines = [f"## {kind.title.format(source=source or 'the database')}", "", summary or kind.summary, ""]
    return "\n".join(lines + [f"- {line.format(run=run)}" for line in kind.advice])
