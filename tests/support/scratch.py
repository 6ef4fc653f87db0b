"""Where tests keep what they make: in memory where the machine has a place for that.

A database is 500 files. ext4 gives a deleted one's inode to nobody for a minute and looks at each
of them again for every new file, so after some hundred tests a database takes 0.6 s to make; in
memory 0.08 s. Nothing here needs a disk: processes are killed, the power stays on.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")
ENOUGH: Final = 4 << 30  # bytes; three lanes of `make test` together take less than one of them


def choose(place: Path = MEMORY) -> None:
    """Have `tempfile`, and the programs that tests start, use it; not where TMPDIR says another."""
    if "TMPDIR" in os.environ or not has_room(place):
        return
    tempfile.tempdir = os.environ["TMPDIR"] = str(place)


def has_room(place: Path) -> bool:
    """Whether we may write there, run programs from there, and need not fear to fill it."""
    try:
        told = os.statvfs(place)
    except OSError:
        return False
    is_open = os.access(place, os.W_OK | os.X_OK) and not told.f_flag & os.ST_NOEXEC
    return is_open and told.f_bavail * told.f_frsize >= ENOUGH
