"""A move by the library as a process of its own: `python -m tests.move_step URL SOURCE HOME`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sqlalchemy.engine import make_url

from tests.acceptance.victim import attempt_move


def main() -> None:
    """Move, and say that all was verified."""
    failed = asyncio.run(attempt_move(make_url(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
    if failed is not None:
        sys.exit(str(failed))
    print("verified")


if __name__ == "__main__":
    main()
