"""Who may trust a journal: only the owner of a process number, and who proves that it is dead.

    owner   takes the lock before its epoch, holds it for its whole life
    taker   gets the lock of a dead owner ─▶ reads its journal, settles, removes it
            does not get it ─▶ the owner may only be frozen: its journal proves nothing

A frozen process may have found its lease valid just before it stopped, and write a line and a
burst when it wakes: a journal read meanwhile lacks that line. The kernel lets go of an `flock`
when the process has ended, however it ended, and no child inherits it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from pathlib import Path

from sms.errors import Unavailable
from store.journal import Journal, folder_of, make_folder

WAIT_S = 5.0  # a killed owner is gone in milliseconds, a taker that settles in seconds
_LOOK_S = 0.05
_NAME = "lock"


class JournalLock:
    """The lock on the journal of one process number; made by `take` or `of_dead`."""

    def __init__(self, handle: int, directory: Path, process: int) -> None:
        self._handle = handle
        self._directory = directory
        self.process = process

    @classmethod
    def take(cls, directory: Path, process: int) -> JournalLock | None:
        """The owner's: makes the folder where there is none. None while another one holds it.

        Raises OSError when the directory cannot be written.
        """
        make_folder(directory, process)
        try:
            handle = _locked(_path(directory, process), os.O_CREAT)
        except FileNotFoundError:  # a taker removes the folder at this moment
            return None
        if handle is None:
            return None
        os.ftruncate(handle, 0)
        os.write(handle, b"%d" % os.getpid())  # for the error of who waits in vain
        return cls(handle, directory, process)

    @classmethod
    def of_dead(cls, directory: Path, process: int) -> JournalLock | None:
        """The taker's: None when the owner is not proved dead, or never held a lock here."""
        try:
            handle = _locked(_path(directory, process), 0)
        except OSError:
            return None
        return None if handle is None else cls(handle, directory, process)

    def remove(self) -> None:
        """Remove the journal: its owner is dead and owes nothing any more. Lets go too."""
        Journal.remove(self._directory, self.process)
        path = _path(self._directory, self.process)
        path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        self.release()

    def release(self) -> None:
        """Let go; a second time does nothing."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


class OwnJournal:
    """The lock of a worker's own journal: `hold` is what `ProcessLease.take` asks for."""

    def __init__(self, directory: Path, *, slot: int, wait_s: float = WAIT_S) -> None:
        self._directory = directory
        self._slot = slot
        self._wait_s = wait_s
        self._lock: JournalLock | None = None

    async def hold(self, process: int) -> None:
        """Hold the journal of this process number from now on, and no other one.

        Raises Unavailable when its former owner still lives after `wait_s`.
        """
        if self._lock is not None and self._lock.process == process:
            return
        self.release()
        until = time.monotonic() + self._wait_s
        while (lock := JournalLock.take(self._directory, process)) is None:
            if time.monotonic() >= until:
                raise Unavailable(
                    f"process {process} still runs (pid {_holder(self._directory, process)}): "
                    f"it holds {_NAME} in journal/{process:04d} of SMSGW_DATA_DIR; end it, or "
                    f"give this worker another SMSGW_WORKER_SLOT than {self._slot}"
                )
            await asyncio.sleep(_LOOK_S)
        self._lock = lock

    def release(self) -> None:
        """Let go, where the process does not end with its owner."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _path(directory: Path, process: int) -> Path:
    return folder_of(directory, process) / _NAME


def _locked(path: Path, flags: int) -> int | None:
    """A descriptor that holds the lock of the file now at `path`, None when somebody else does."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # a taker removed it between the two calls: the lock of no journal


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(directory: Path, process: int) -> str:
    try:
        return _path(directory, process).read_text("ascii")[:20] or "unknown"
    except (OSError, ValueError):
        return "unknown"
