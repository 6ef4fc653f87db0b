"""Samples where a worker's CPU goes, for `make bench`; the gateway itself knows nothing of it.

Python imports a module of this name at start when it finds one on PYTHONPATH. It does nothing
unless LOADTEST_SAMPLES names a file and the process is `gateway worker`. Then a timer that runs
with the process's own CPU time, not the clock, notes the stack every 10 ms: about 0.3 % of the
CPU, and true also where others use the cores. A line of the file: Unix second, TAB, how often,
TAB, frames `file:function` from the innermost outwards, joined by `;`.

Python runs signal handlers between two steps of its own code, so time in C (a system call, OpenSSL)
counts for the function that called it or for the next one: right for a step, not for a line.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections import Counter
from types import FrameType
from typing import Final

EVERY_S: Final = 0.01  # of CPU
_WRITE_EVERY: Final = 50  # samples
_ROOTS: Final = ("site-packages/", "lib/python")


def _install(path: str) -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
    samples: Counter[tuple[int, str]] = Counter()
    names: dict[object, str] = {}

    def shown(frame: FrameType) -> str:
        code = frame.f_code
        name = names.get(code)
        if name is None:
            file = code.co_filename.removeprefix(root)
            for mark in _ROOTS:
                file = file.rsplit(mark, 1)[-1]
            name = names[code] = f"{file}:{code.co_name}"
        return name

    def take(_: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            stack.append(shown(frame))
            frame = frame.f_back
        samples[int(time.time()), ";".join(stack)] += 1
        if samples.total() >= _WRITE_EVERY:
            lines = [f"{at}\t{count}\t{frames}\n" for (at, frames), count in samples.items()]
            samples.clear()
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(lines)

    def end() -> None:  # Python gives signals back while it ends, and a SIGPROF then kills
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)

    atexit.register(end)
    signal.signal(signal.SIGPROF, take)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)


_path = os.environ.get("LOADTEST_SAMPLES")
if _path and sys.orig_argv[-2:] == ["gateway", "worker"]:
    _install(_path)
