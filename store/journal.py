r"""The attempt journal: what left for a carrier and what came back (RELIABILITY section 4).

    <directory>/<process>/lock            held by the owner for its life (`store.journal_lock`)
    <directory>/<process>/<epoch>-<n>     segments of 4 MiB, never fsynced: it outlives the
                                          process, not the machine, and says so by the boot id
    segment  = "SMSJ" version(1) boot id(36) frame…
    frame    = kind(1) length(4) crc32(4) highest message id(8) lines…     one os.write()
    write line  = message id(8) segment(2) attempt(2) copy(1) channel(2)
    answer line = message id(8) segment(2) attempt(2) copy(1) kind(1) length(2) length(2)
                  carrier id, code

A frame goes out before the burst of bytes it speaks of: no frame, no burst. A kill in the middle
of a write leaves a frame whose checksum fails; what stands behind it is not read.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from struct import Struct
from struct import error as struct_error
from typing import NamedTuple

SUBMITTED, REJECTED, THROTTLED, NOT_SENT, UNCERTAIN = range(5)

SEGMENT_BYTES = 4 << 20  # what is read at once, and what stays though nobody needs it
_MAGIC = b"SMSJ\x01"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_BOOT_BYTES = 36
_HEAD_BYTES = len(_MAGIC) + _BOOT_BYTES
_FRAME = Struct(">BIIq")
_WRITE = Struct(">qHHBH")
_ANSWER = Struct(">qHHBBHH")
_WRITES, _ANSWERS = 1, 2


class WriteLine(NamedTuple):
    """One segment was about to be written to a channel."""

    segment: int
    attempt: int
    copy: int
    channel: int


class AnswerLine(NamedTuple):
    """What came of it: `kind` is SUBMITTED … UNCERTAIN."""

    segment: int
    attempt: int
    copy: int
    kind: int
    carrier_id: str
    code: str


@dataclass(slots=True)
class Replay:
    """What the journal of a dead process says, by message id, in order of writing.

    Without `is_present` (absent, or the machine was restarted since) a missing write line means
    nothing: whatever was claimed and not answered is uncertain.
    """

    is_present: bool = False
    writes: dict[int, list[WriteLine]] = field(default_factory=dict)
    answers: dict[int, list[AnswerLine]] = field(default_factory=dict)


class Journal:
    """The journal of a living process.

    Making one removes what older epochs wrote: make it only after their recovery is committed.
    Raises OSError when the directory cannot be written. `moment` gives ids that only rise: a
    segment is as young as the moment it was closed at, however old the messages in it are.
    """

    def __init__(
        self,
        directory: Path,
        process: int,
        epoch: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        moment: Callable[[], int] = lambda: 0,
    ) -> None:
        self.failures = 0  # writes that did not reach the file whole
        self._folder = make_folder(directory, process)
        self._epoch = epoch
        self._segment_bytes = segment_bytes
        self._moment = moment
        self._is_open = True
        self._path = Path()
        self._size = 0
        self._highest = 0  # message id in the open segment
        self._closed: list[tuple[Path, int]] = []  # path, an id above all that stands in it
        older = _segments(self._folder)
        self._count = max((n for e, n, _ in older if e == epoch), default=-1) + 1
        self._handle = self._open()
        for _, _, path in older:
            path.unlink(missing_ok=True)

    def write_lines(self, entries: Sequence[tuple[int, int, int, int, int]]) -> bool:
        """(message_id, segment, attempt, copy, channel) of a burst, before its first byte.

        False: nothing may be written to the carrier.
        """
        if not entries:
            return True
        return self._append(_WRITES, max(entries)[0], starmap(_WRITE.pack, entries))

    def answer_lines(self, entries: Sequence[tuple[int, int, int, int, int, str, str]]) -> bool:
        """(message_id, segment, attempt, copy, kind, carrier_id, code) of a burst of answers.

        False: the lines are lost, after a crash these segments would be uncertain.
        """
        if not entries:
            return True
        return self._append(_ANSWERS, max(entries)[0], starmap(_answer, entries))

    def note_low_water(self, message_id: int) -> None:
        """Nothing older than this id can be needed again: drop closed segments wholly below.

        The id is the lower one of the low-water mark and the floor of the claims. A claim is made
        before the first line it is for, and made anew only while nothing of its message is open:
        a write line that goes was answered, by an answer that sent the message back into its lane
        (or has its row). Such an answer may stand without its write line; it counts no more, for
        the attempt's number is used again, and without it too the message waits in its lane.
        """
        kept = []
        for path, highest in self._closed:
            if highest < message_id:
                path.unlink(missing_ok=True)
            else:
                kept.append((path, highest))
        self._closed = kept

    def close(self) -> None:
        """Close the file; it stays for the next owner. Later lines are refused."""
        self._is_open = False
        self._let_go()

    @staticmethod
    def remove(directory: Path, process: int) -> None:
        """What this process number wrote here: its owner is dead and owes nothing any more.

        Only for who holds its lock (`store.journal_lock`).
        """
        for _, _, path in _segments(folder_of(directory, process)):
            path.unlink(missing_ok=True)

    @staticmethod
    def replay(directory: Path, process: int, wanted: Collection[int] | None = None) -> Replay:
        """Read what is there; changes nothing. It may take seconds: not for the event loop.

        `wanted`: only the lines of these messages are kept, None means all. Of the others it says
        nothing, least of all that they were not written. When none is wanted only the heads of
        the segments are read, for `is_present`.
        """
        replay = Replay()
        only = None if wanted is None else frozenset(wanted)
        boot_id = _boot_id()
        boots = set()
        for _, _, path in _segments(folder_of(directory, process)):
            with path.open("rb") as file:
                data = file.read(_HEAD_BYTES if only is not None and not only else -1)
            if len(data) < _HEAD_BYTES or not data.startswith(_MAGIC):
                continue
            boots.add(data[len(_MAGIC) : _HEAD_BYTES])
            for kind, lines in _frames(data, _HEAD_BYTES):
                _READERS[kind](lines, replay, only)
        replay.is_present = boots == {boot_id}
        return replay

    # ---- one frame ----

    def _append(self, kind: int, highest: int, lines: Iterator[bytes]) -> bool:
        if not self._is_open:
            return False
        try:
            body = b"".join(lines)
            if self._size >= self._segment_bytes or self._handle < 0:
                self._rotate()
            frame = _FRAME.pack(kind, len(body), zlib.crc32(body), highest) + body
            written = os.write(self._handle, frame)
        except (OSError, struct_error):
            self._failed()
            return False
        if written != len(frame):
            self._failed()
            return False
        self._size += written
        if highest > self._highest:
            self._highest = highest
        return True

    def _failed(self) -> None:
        """Half a frame may stand at the end: nothing goes behind it, another segment follows.

        One without a whole frame goes: a full disk is tried again and again, and must not run out
        of inodes as well.
        """
        self.failures += 1
        path, is_empty = self._path, self._handle >= 0 and self._size == _HEAD_BYTES
        self._let_go()
        if is_empty:
            self._closed.pop()
            path.unlink(missing_ok=True)

    def _rotate(self) -> None:
        self._let_go()
        self._handle = self._open()

    def _let_go(self) -> None:
        if self._handle >= 0:
            self._closed.append((self._path, max(self._highest, self._moment())))
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> int:
        self._path = self._folder / f"{self._epoch}-{self._count:06d}"
        self._count += 1
        self._highest = 0
        handle = os.open(
            self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            self._size = os.write(handle, _MAGIC + _boot_id())
            if self._size != _HEAD_BYTES:  # what would stand behind half a head is read by nobody
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.close(handle)
            self._path.unlink(missing_ok=True)
            raise
        return handle


def _answer(  # noqa: PLR0913, PLR0917 - the fields of one line
    message_id: int, segment: int, attempt: int, copy: int, kind: int, carrier_id: str, code: str
) -> bytes:
    carrier, word = carrier_id.encode("utf-8", "replace"), code.encode("utf-8", "replace")
    head = _ANSWER.pack(message_id, segment, attempt, copy, kind, len(carrier), len(word))
    return head + carrier + word


def folder_of(directory: Path, process: int) -> Path:
    """Where the journal of a process number lies."""
    return directory / f"{process:04d}"


def make_folder(directory: Path, process: int) -> Path:
    """The same, made where it is missing; nobody else's. Raises OSError."""
    folder = folder_of(directory, process)
    for path in (directory, folder):  # `parents=True` gives those above no mode
        path.mkdir(parents=path == directory, exist_ok=True, mode=0o700)
    return folder


def _segments(folder: Path) -> list[tuple[int, int, Path]]:
    """(epoch, n, path), oldest first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        epoch, _, number = path.name.partition("-")
        if epoch.isdigit() and number.isdigit():
            found.append((int(epoch), int(number), path))
    return sorted(found)


def _boot_id() -> bytes:
    return _BOOT_ID.read_bytes().strip().ljust(_BOOT_BYTES)[:_BOOT_BYTES]


def _frames(data: bytes, at: int) -> Iterator[tuple[int, memoryview]]:
    view = memoryview(data)
    while at + _FRAME.size <= len(data):
        kind, length, checksum, _ = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        body = view[at : at + length]
        if len(body) < length or zlib.crc32(body) != checksum or kind not in _READERS:
            return
        yield kind, body
        at += length


def _read_writes(body: memoryview, replay: Replay, only: frozenset[int] | None) -> None:
    if len(body) % _WRITE.size:
        return
    for message_id, segment, attempt, copy, channel in _WRITE.iter_unpack(body):
        if only is not None and message_id not in only:
            continue
        line = WriteLine(segment, attempt, copy, channel)
        replay.writes.setdefault(message_id, []).append(line)


def _read_answers(body: memoryview, replay: Replay, only: frozenset[int] | None) -> None:
    at = 0
    while at + _ANSWER.size <= len(body):
        message_id, segment, attempt, copy, kind, n_id, n_code = _ANSWER.unpack_from(body, at)
        at += _ANSWER.size
        start, at = at, at + n_id + n_code
        if only is not None and message_id not in only:
            continue
        key = segment, attempt, copy
        if not any(line[:3] == key for line in replay.writes.get(message_id, ())):
            continue  # its write line went: `note_low_water` says why nobody misses this one
        carrier_id = str(body[start : start + n_id], "utf-8", "replace")
        code = str(body[start + n_id : at], "utf-8", "replace")
        line = AnswerLine(segment, attempt, copy, kind, carrier_id, code)
        replay.answers.setdefault(message_id, []).append(line)


_READERS = {_WRITES: _read_writes, _ANSWERS: _read_answers}
