"""A simulated carrier's record of every submit: one JSON line each, readable with any tool.

A burst is one write() before its answers are sent, so a line is in the file, though not on the
disk, when the client learns of it; a kill of this process loses nothing. Nothing is kept in
memory but the place of every 1,024th line, whatever the length of the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

STRIDE = 1024
CHUNK = 1 << 20


class Record:
    """An append-only file of lines with a cursor: the number of lines before a place."""

    def __init__(self, path: Path) -> None:
        """Open or continue the file; a line cut by a crash of the machine is taken off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._places = [0]  # where line 0, STRIDE, 2 * STRIDE, … begins
        self.count = 0
        self._size = 0
        for line in self._old_lines():
            self._size += len(line)
            self._counted(self._size)
        os.ftruncate(self._fd, self._size)

    def _old_lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as old:
            for line in old:
                if line.endswith(b"\n"):
                    yield line

    def _counted(self, end: int) -> None:
        self.count += 1
        if self.count % STRIDE == 0:
            self._places.append(end)

    def write(self, lines: list[str]) -> None:
        """Append whole lines (each with its line feed) in one write()."""
        data = "".join(lines).encode()
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        room = STRIDE - self.count % STRIDE
        if len(lines) < room:
            self.count += len(lines)
        else:
            end = self._size
            for line in lines:
                end += len(line.encode())
                self._counted(end)
        self._size += len(data)

    def read(self, after: int) -> Iterator[bytes]:
        """The lines after the first `after` ones, in chunks that end with a line."""
        if after >= self.count:
            return
        stride, skip = divmod(after, STRIDE)
        left = self._size - self._places[stride]
        with self._path.open("rb") as file:
            file.seek(self._places[stride])
            for _ in range(skip):
                left -= len(file.readline())
            while left > 0:
                chunk = file.read(min(CHUNK, left))
                if not chunk.endswith(b"\n") and len(chunk) < left:
                    chunk += file.readline()
                left -= len(chunk)
                yield chunk

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
