"""A staged file is damaged between its export and its load: found by its checksum, and exported again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pgferry.model import ExportedChunk
from pgferry.move import Move, Unit
from tests.acceptance import moving
from tests.acceptance.victim import CHUNK, TRADES, Place
from tests.proxy import Link, Proxy


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def alter_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


def replace_by_another_chunk(file: Path) -> None:
    others = sorted(other for other in file.parent.glob("*.parquet") if other != file)
    if others:
        shutil.copyfile(others[-1], file)
    else:
        truncate(file)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "altered in one bit": alter_a_byte,
    "deleted": Path.unlink,
    "replaced by another chunk's": replace_by_another_chunk,
    "emptied": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize(
    "damage",
    ["truncated", "altered in one bit", *(pytest.param(each, marks=pytest.mark.slow) for each in [*DAMAGES][2:])],
)
def test_a_file_that_is_damaged_before_its_load_is_exported_again(
    damage: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = place.victim()
    damaged: list[str] = []
    export_unit = moving.export_unit

    def export(move: Move, unit: Unit) -> tuple[ExportedChunk, ...]:
        exported = export_unit(move, unit)
        for item in exported:
            DAMAGES[damage](Path(item.path))
            damaged.append(item.path)
        return exported

    monkeypatch.setattr(moving, "export_unit", export)
    assert asyncio.run(victim.attempt()) is None
    assert len(damaged) == TRADES // CHUNK + 2
    victim.assert_like_undisturbed()


def test_files_that_are_damaged_between_two_runs_are_exported_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = place.victim()
    export_unit = moving.export_unit
    exported: list[ExportedChunk] = []

    def export_all(move: Move, unit: Unit) -> tuple[ExportedChunk, ...]:
        if not exported:
            exported.extend(item for group in move.groups for each in group.units for item in export_unit(move, each))
        return tuple(item for item in exported if item.chunk in unit.chunks)

    with Proxy(victim.url) as proxy, monkeypatch.context() as patch:
        patch.setattr(moving, "export_unit", export_all)
        proxy.when(b'COPY "public"."trades"("id"', Link.cut, after=100_000)
        assert asyncio.run(victim.attempt(proxy.url)) is not None
    assert len(exported) == TRADES // CHUNK + 2
    for item, damage in zip(exported, [*DAMAGES.values()] * 3, strict=False):
        damage(Path(item.path))
    victim.wait_until_alone()
    assert asyncio.run(victim.attempt()) is None
    victim.assert_like_undisturbed()
