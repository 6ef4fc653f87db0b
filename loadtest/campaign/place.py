"""Where the data directory lies, how its disk is filled and how its power is cut.

On an image (a file with an ext4 in it, mounted over a loop device) both are real: the disk has an
end, and a copy of the image holds what the file system had written by then, not what its cache
held. Where mounting is forbidden a plain directory stands in, with these substitutes:

    full disk   RLIMIT_FSIZE 0 on the workers and PostgreSQL: every write beyond is refused
    power cut   a copy of the directory while everything is frozen, with every byte of the log
                zeroed that PostgreSQL had not reported as flushed

What that proves and what not: docs/campaign.md. Either way the journals are given another boot
id, since a machine that lost its power comes back with another one (RELIABILITY section 4).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from loadtest.campaign.books import Books
from loadtest.campaign.node import Broken, Node

IMAGE_BYTES: Final = 6 << 30  # sparse: a campaign of hours, write-ahead log included, uses a third
FILLER: Final = "filler"
UNMOUNT_S: Final = 10.0
COMMAND_S: Final = 120.0
LOG_SEGMENT: Final = 16 << 20
_JOURNAL_MAGIC: Final = b"SMSJ\x01"
_BOOT_BYTES: Final = 36


class Place(ABC):
    """A place for one node's data."""

    kind: str
    how_filled: str
    how_cut: str

    def __init__(self, node: Node) -> None:
        self._node = node

    @abstractmethod
    def prepare(self) -> None:
        """Make it; before the node is furnished. Raises OSError where that is forbidden."""

    @abstractmethod
    def fill(self) -> None:
        """From now on the disk takes nothing more."""

    @abstractmethod
    def empty(self) -> None:
        """It has room again."""

    @abstractmethod
    async def cut_power(self, books: Books) -> float:
        """Everything on this machine stops at one moment, given back (Unix); the node is down
        afterwards and starts on what the disk held then."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing behind; everything on it has ended."""

    def _freeze(self) -> list[int]:
        """SIGSTOP all processes of the node, the supervisor first: it would mend the others."""
        frozen: list[int] = []
        while pids := [pid for pid in self._node.everything() if pid not in frozen]:
            for pid in pids:
                self._node.send(pid, signal.SIGSTOP)
            frozen += pids
        return frozen


class PlainPlace(Place):
    """A directory on whatever file system there is, with substitutes."""

    kind = "directory"
    how_filled = "RLIMIT_FSIZE on PostgreSQL and the workers"
    how_cut = "frozen copy, unflushed log zeroed"

    def prepare(self) -> None:
        """Nothing to make."""
        self._limited: list[tuple[psutil.Process, tuple[int, int]]] = []

    def fill(self) -> None:
        """No file of PostgreSQL or a worker can be written any more, new or old."""
        for process in self._writers():
            with contextlib.suppress(psutil.Error):
                before = process.rlimit(psutil.RLIMIT_FSIZE)
                process.rlimit(psutil.RLIMIT_FSIZE, (0, before[1]))
                self._limited.append((process, before))

    def empty(self) -> None:
        """Lift the limit, also from processes that inherited it since."""
        before = self._limited[0][1] if self._limited else (-1, -1)
        for process in [*(process for process, _ in self._limited), *self._writers()]:
            with contextlib.suppress(psutil.Error):
                process.rlimit(psutil.RLIMIT_FSIZE, before)
        self._limited.clear()

    def _writers(self) -> Iterator[psutil.Process]:
        for name, pid in self._node.pids().items():
            if name == "postgres" or name.startswith("worker-"):
                with contextlib.suppress(psutil.Error):
                    yield psutil.Process(pid)
        yield from self._node.below("postgres")

    async def cut_power(self, books: Books) -> float:
        """See the head of the file."""
        node = self._node
        pids = await asyncio.to_thread(node.pids)
        for name, pid in pids.items():  # nobody can be given a 202 after this …
            if name == "supervisor" or name.startswith("worker-"):
                node.send(pid, signal.SIGSTOP)
        at = time.time()
        flushed = await books.flushed()  # … so what is flushed after this was told to nobody
        await asyncio.to_thread(self._freeze)
        copy = node.data_dir.with_name("d.cut")
        try:
            await asyncio.to_thread(_run, "cp", "-a", str(node.data_dir), str(copy))
        finally:
            await asyncio.to_thread(node.kill_all)
        await books.close()
        shutil.rmtree(node.data_dir)
        copy.rename(node.data_dir)
        zero_log_behind(node.data_dir / "postgres" / "pg_wal", flushed)
        age_journals(node.data_dir / "journal")
        return at

    def close(self) -> None:
        """The folder is removed by its owner."""


class ImagePlace(Place):
    """A small disk of its own."""

    kind = "ext4 on a loop device"
    how_filled = "a file that takes all of a small disk"
    how_cut = "copy of the disk while everything is frozen"

    def prepare(self) -> None:
        """Make the image and mount it; raises OSError where that is forbidden."""
        self._image = self._node.folder / "image"
        with self._image.open("wb") as image:
            image.truncate(IMAGE_BYTES)
        _run("mkfs.ext4", "-q", "-m", "0", "-F", str(self._image))
        self._node.data_dir.mkdir(mode=0o700)
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self._node.data_dir))

    def _unmount(self) -> None:
        end = time.monotonic() + UNMOUNT_S
        while True:
            try:
                _run("umount", str(self._node.data_dir))
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)  # a process that was killed is still on its way out
            else:
                return

    def fill(self) -> None:
        """Take every block that is left."""
        handle = os.open(self._node.data_dir / FILLER, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size, step = 0, 1 << 30
            while step >= 4096:
                try:
                    os.posix_fallocate(handle, size, step)
                    size += step
                except OSError:
                    step //= 2
        finally:
            os.close(handle)

    def empty(self) -> None:
        """Give the blocks back."""
        (self._node.data_dir / FILLER).unlink(missing_ok=True)

    async def cut_power(self, books: Books) -> float:
        """See the head of the file."""
        node = self._node
        at = time.time()
        await asyncio.to_thread(self._freeze)
        copy = self._image.with_suffix(".cut")
        try:
            await asyncio.to_thread(_run, "cp", "--sparse=always", str(self._image), str(copy))
        finally:
            await asyncio.to_thread(node.kill_all)
        await books.close()
        await asyncio.to_thread(self._unmount)
        copy.replace(self._image)
        self._mount()
        age_journals(node.data_dir / "journal")
        return at

    def close(self) -> None:
        """Unmount; the image goes with the folder."""
        if not self._node.data_dir.is_mount():
            return
        try:
            self._unmount()
        except OSError:  # somebody still looks at it: it goes when he does
            _run("umount", "--lazy", str(self._node.data_dir))


def choose_place(node: Node, wanted: str) -> Place:
    """`image`, `plain`, or `auto`: an image where it can be made. Raises Broken."""
    if wanted != "plain":
        place = ImagePlace(node)
        try:
            place.prepare()
        except OSError as error:
            if wanted == "image":
                raise Broken(f"no image can be mounted here: {error}") from error
            (node.folder / "image").unlink(missing_ok=True)
        else:
            return place
    plain = PlainPlace(node)
    plain.prepare()
    return plain


def _run(*words: str) -> None:
    """A command of the system; OSError with its words when it fails or is missing."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs and our own paths
            words, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{words[0]} does not end") from error
    if done.returncode:
        raise OSError(f"{words[0]}: {done.stderr.strip() or done.returncode}")


def age_journals(directory: Path) -> None:
    """Give every journal segment another boot's id, as after a restart of the machine."""
    other = secrets.token_hex(_BOOT_BYTES // 2).encode()
    for path in directory.glob("*/*"):
        with path.open("r+b") as segment:
            if segment.read(len(_JOURNAL_MAGIC)) == _JOURNAL_MAGIC:
                segment.seek(len(_JOURNAL_MAGIC))
                segment.write(other)


def zero_log_behind(directory: Path, flushed: int) -> None:
    """Take away what PostgreSQL had not flushed: every byte of its log behind that position."""
    per_id = (1 << 32) // LOG_SEGMENT
    segment, offset = divmod(flushed, LOG_SEGMENT)
    for path in directory.iterdir():
        name = path.name
        if len(name) != 24 or not set(name) <= set("0123456789ABCDEF"):
            continue
        number = int(name[8:16], 16) * per_id + int(name[16:], 16)
        if number < segment:
            continue
        start = offset if number == segment else 0
        with path.open("r+b") as log:
            log.seek(start)
            log.write(bytes(path.stat().st_size - start))
