"""How full the file systems are that a node writes to.

The data directory, and of what lies in it whatever is mounted from elsewhere: the journal, the
logs, and the embedded servers' data with PostgreSQL's write-ahead log. The fullest one counts, by
its blocks or by its inodes: a disk without free inodes takes no new file either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

LOOK_S: Final = 1.0  # a look is some 10 µs
PLACES: Final = (".", "journal", "log", "valkey", "postgres", "postgres/pg_wal")


def used_share(told: os.statvfs_result) -> float:
    """0 to 1, of blocks or of inodes, whichever is scarcer for who is not root."""
    blocks = 1.0 - told.f_bavail / told.f_blocks if told.f_blocks else 0.0
    inodes = 1.0 - told.f_favail / told.f_files if told.f_files else 0.0  # btrfs counts none
    return max(blocks, inodes)


def fullest(
    places: Iterable[Path], look: Callable[[Path], os.statvfs_result] = os.statvfs
) -> float:
    """The used share of the fullest of them; what is not there, or does not answer, is left out."""
    shares = [0.0]
    for place in places:
        try:
            shares.append(used_share(look(place)))
        except OSError:  # not made yet, or moved away while we looked
            continue
    return max(shares)


class Storage:
    """The fullest disk, looked at again once a second at most."""

    def __init__(self, data_dir: Path, monotonic: Callable[[], float]) -> None:
        self._places = [data_dir / place for place in PLACES]
        self._monotonic = monotonic
        self._due = float("-inf")
        self._share = 0.0

    def share(self) -> float:
        """0 to 1."""
        now = self._monotonic()
        if now >= self._due:
            self._due = now + LOOK_S
            self._share = fullest(self._places)
        return self._share
