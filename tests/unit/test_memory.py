"""What a process that works on chunks does about its memory."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import pyarrow as pa
from pgferry.memory import keep_flat

keep_flat()
keep_flat()
before = pa.default_memory_pool().bytes_allocated()
array = pa.array(range(100_000))
print(pa.default_memory_pool().backend_name, pa.default_memory_pool().bytes_allocated() - before >= 800_000)
"""


def test_arrow_takes_its_memory_from_the_c_library() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "system True\n"
