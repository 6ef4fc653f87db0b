"""Only who holds the lock of a journal may trust it, and a lock ends with its process."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sms.errors import Unavailable
from store import journal_lock as module
from store.journal import Journal, make_folder
from store.journal_lock import JournalLock, OwnJournal

OWNER = """
import sys
from pathlib import Path
from store.journal_lock import JournalLock
assert JournalLock.take(Path(sys.argv[1]), 3) is not None
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the journal of process 3."""
    args = [sys.executable, "-c", OWNER, str(tmp_path)]
    process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_who_lives_or_is_frozen_is_not_proved_dead_and_who_was_killed_is(
    owner: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert JournalLock.of_dead(tmp_path, 3) is None
    owner.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, owner.pid, os.WSTOPPED | os.WNOWAIT)
    assert JournalLock.of_dead(tmp_path, 3) is None
    owner.kill()
    # not reaped: the kernel has let go before the parent hears of it
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
    lock = JournalLock.of_dead(tmp_path, 3)
    assert lock is not None
    lock.release()


def test_no_child_inherits_it(tmp_path: Path) -> None:
    lock = JournalLock.take(tmp_path, 3)
    assert lock is not None
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lock.release()
        again = JournalLock.of_dead(tmp_path, 3)
        assert again is not None
        again.release()
    finally:
        child.kill()
        child.wait()


def test_who_never_held_a_lock_is_not_proved_dead_and_nothing_is_made(tmp_path: Path) -> None:
    assert JournalLock.of_dead(tmp_path, 3) is None
    assert list(tmp_path.iterdir()) == []
    Journal(tmp_path, 3, 1).close()
    assert JournalLock.of_dead(tmp_path, 3) is None


def test_who_waited_for_a_lock_that_was_removed_holds_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two would hold the lock of one journal: each on a file of its own."""
    first = JournalLock.take(tmp_path, 3)
    assert first is not None
    Journal(tmp_path, 3, 1).close()
    real, holders = fcntl.flock, [first]

    def late(handle: int, how: int) -> None:
        if holders:
            holders.pop().remove()  # between our open() and our flock()
            assert not (tmp_path / "0003").exists()
            make_folder(tmp_path, 3)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second = JournalLock.take(tmp_path, 3)
    assert second is not None
    assert JournalLock.take(tmp_path, 3) is None
    second.release()


def test_a_folder_that_goes_meanwhile_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "make_folder", lambda directory, process: None)
    assert JournalLock.take(tmp_path, 3) is None


async def test_the_next_owner_waits_for_the_last_one_to_end(tmp_path: Path) -> None:
    former = JournalLock.take(tmp_path, 3)
    assert former is not None
    own = OwnJournal(tmp_path, slot=0, wait_s=5.0)
    waiting = asyncio.ensure_future(own.hold(3))
    await asyncio.sleep(0)
    assert not waiting.done()
    former.release()
    await waiting
    await own.hold(3)  # it holds it already
    assert JournalLock.of_dead(tmp_path, 3) is None
    await own.hold(4)  # another number was given to it meanwhile
    assert JournalLock.of_dead(tmp_path, 4) is None
    freed = JournalLock.of_dead(tmp_path, 3)
    assert freed is not None
    freed.release()
    own.release()


async def test_who_waits_in_vain_is_told_who_holds_it_and_what_to_set(tmp_path: Path) -> None:
    former = JournalLock.take(tmp_path, 3)
    assert former is not None
    with pytest.raises(Unavailable) as caught:
        await OwnJournal(tmp_path, slot=7, wait_s=0.0).hold(3)
    for word in (f"pid {os.getpid()}", "SMSGW_WORKER_SLOT than 7", "journal/0003"):
        assert word in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    former.release()
