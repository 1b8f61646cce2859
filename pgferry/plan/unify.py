"""Gives the two sides of a foreign key one type, where one type holds both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pgferry.model import ColumnRule, PgKind, PgType
from pgferry.plan.fit import misfits
from pgferry.plan.foreign_keys import comparable
from pgferry.plan.infer import Use, allowed, evidence
from pgferry.plan.schema import Draft

Place = tuple[str, str]
"""A table's lower-case name and a column's exact name."""

_WIDER = (PgKind.SMALLINT, PgKind.INTEGER, PgKind.BIGINT)


def unify(drafts: Mapping[str, Draft]) -> None:
    """Change the proposals of columns that foreign keys join so that their types are equal; leave the rest as it is.

    `drafts` by lower-case source name. A type is taken for a group only if it holds every value of every column in it
    and keeps the values of unique columns apart; the parents' types are tried first.
    """
    for group in _groups(_pairs(drafts)):
        _settle(drafts, group)


def _pairs(drafts: Mapping[str, Draft]) -> Iterator[tuple[Place, Place]]:
    for name, draft in drafts.items():
        for key in draft.source.foreign_keys:
            parent = drafts.get(key.parent.lower())
            targets = (key.parent_columns or parent.source.key) if parent else ()
            for column, target in zip(key.columns, targets, strict=False):
                child, other = draft.exact(column), parent.exact(target) if parent else ""
                if parent and child in draft.proposals and other in parent.proposals:
                    yield (name, child), (key.parent.lower(), other)


def _groups(pairs: Iterable[tuple[Place, Place]]) -> Iterator[list[Place]]:
    """Yield the columns that are joined, directly or through others: parents first, each group in a stable order."""
    group_of: dict[Place, list[Place]] = {}
    for child, parent in pairs:
        first, second = group_of.setdefault(parent, [parent]), group_of.setdefault(child, [child])
        if first is second:
            continue
        first.extend(second)
        for place in second:
            group_of[place] = first
    seen: set[int] = set()
    for group in group_of.values():
        if id(group) not in seen:
            seen.add(id(group))
            yield group


def _settle(drafts: Mapping[str, Draft], group: list[Place]) -> None:
    types = [drafts[table].type(column) for table, column in group]
    if all(type == types[0] for type in types):
        return
    for candidate in _candidates(types):
        if all(_fits(drafts[table], column, candidate) for table, column in group):
            for table, column in group:
                _take(drafts[table], column, candidate)
            return


def _candidates(types: list[PgType]) -> Iterator[PgType]:
    if all(comparable(types[0], type) for type in types) and types[0].kind in _WIDER:
        yield max(types, key=lambda type: _WIDER.index(type.kind))
    yield from dict.fromkeys(types)


def _fits(draft: Draft, column: str, type: PgType) -> bool:
    if column == draft.source.rowid_column and type.kind is not PgKind.BIGINT:
        return False
    profile = draft.profile.column(column)
    # A looser spelling was weighed, with the column's own use, when its own type was chosen; none is taken for a key.
    measured = profile if draft.type(column) == type else profile.by_forms()
    use = draft.uses.get(column.lower(), Use())
    return allowed(type, profile, use) and not misfits(measured, type, ColumnRule())


def _take(draft: Draft, column: str, type: PgType) -> None:
    proposal = draft.proposals[column]
    if proposal.type == type:
        return
    said = evidence(draft.source.column(column), draft.profile.column(column), type)
    draft.proposals[column] = replace(
        proposal, type=type, evidence=f"{said}, as the key that it refers to", number_as_bytes=False
    )
