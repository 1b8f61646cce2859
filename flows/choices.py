"""Parameters that take one of a few words: the run form of the Prefect UI offers them, and the server takes no others.

In a program any text may be given; the flow itself refuses the wrong ones, in words.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field


def _one_of(*words: str) -> Any:
    return Field(json_schema_extra={"enum": list(words)})


LevelName = Annotated[str, _one_of("counts", "sample", "cells")]
SideName = Annotated[str, _one_of("", "postgres", "sqlite")]
FormatName = Annotated[str, _one_of("parquet", "jsonl")]
AlertKind = Annotated[str, _one_of("validation", "breach", "lag", "crash")]
Percent = Annotated[float, Field(json_schema_extra={"exclusiveMinimum": 0, "maximum": 100})]
