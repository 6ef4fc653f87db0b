"""The files that processes of a node log into: opened, and kept short while somebody writes them.

Who writes holds a descriptor for as long as it lives, PostgreSQL's backends too. So a long file is
copied and emptied, not renamed: with O_APPEND the next line goes to its new end.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

LIMIT: Final = 20_000_000  # bytes; a longer log is set aside, one old one is kept
_CHUNK: Final = 1 << 20
_TRIES: Final = 100  # until a line that is being written is whole
_COPIES: Final = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def open_log(path: Path) -> int:
    """A descriptor that appends to a log of mode 0600; a long one is set aside first."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LIMIT:
            path.replace(_aside(path))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def shorten(folder: Path, limit: int = LIMIT) -> list[str]:
    """Set aside what is longer than `limit` bytes of each `NAME.log`; the names of these files.

    Lines that come between the end of the copy and the emptying, some microseconds, are lost.
    Raises OSError where a copy cannot be written: the file is then as it was.
    """
    done = []
    for path in sorted(folder.glob("*.log")):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > limit:
                _set_aside(path)
                done.append(path.name)
    return done


def _aside(path: Path) -> Path:
    return path.with_suffix(path.suffix + ".1")


def _set_aside(path: Path) -> None:
    fresh = path.with_suffix(path.suffix + ".new")
    source = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        copy = os.open(fresh, _COPIES, 0o600)
        try:
            _drain(source, copy)
            fresh.replace(_aside(path))
            _drain(source, copy)  # what came meanwhile
            os.ftruncate(source, 0)
        finally:
            os.close(copy)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(source)


def _drain(source: int, copy: int) -> None:
    """Copy all there is, in whole lines: a write over a page's edge is seen in two parts."""
    for _ in range(_TRIES):
        while os.sendfile(copy, source, None, _CHUNK):
            pass
        end = os.lseek(copy, 0, os.SEEK_CUR)
        if not end or os.pread(copy, 1, end - 1) == b"\n":
            return
