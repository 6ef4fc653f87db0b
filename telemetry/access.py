"""The access log: who asked for what, a line a request, kept for half a year.

    <folder>/access-<process>-20261122.jsonl     of a day of UTC; .1, .2 … when it got too long

    {"at": "…Z", "method": "GET", "route": "/v1/messages/{id}", "ids": ["msg_…"], "status": 200,
     "ms": 3.1, "tenant": "ten_…", "key": "key_…", "address": "10.0.0.7", "request_id": "…"}

Masked as every other log is, by the formatter of `telemetry.logs`. The address as it was written,
the query, the headers and the bodies are never in it. Who has no proven key
gets a few lines a second and a count of the rest, so that nobody pushes the lines of others out.
A write that fails costs the line, never the request.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from telemetry.logs import get_logger, render

DAY_S = 86_400
UNPROVEN_PER_S = 20  # lines of requests without a key that is proven
PART_BYTES = 64_000_000  # of one file
LOOK_S = 3600.0  # between two looks for what is too old or too much

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Keep:
    """How long and how much: RELIABILITY section 12 asks for 184 days."""

    days: int = 184
    most_bytes: int = 20_000_000_000  # of all processes of the node together; the oldest goes first


class AccessLog:
    """Writes the lines of one process. One without a folder writes nothing."""

    def __init__(
        self,
        folder: Path | None = None,
        process: str = "",
        keep: Keep | None = None,
        *,
        has_sends: bool = False,
        unix: Callable[[], float] = time.time,
    ) -> None:
        """`has_sends`: the two routes that send are asked to write, too."""
        self.has_sends = has_sends and folder is not None
        self.lost = 0  # lines that could not be written
        self._folder = folder
        self._process = process
        self._keep = keep or Keep()
        self._unix = unix
        self._handle: int | None = None
        self._size = 0
        self._day = -1
        self._looked_at = 0.0
        self._second = 0
        self._unproven = 0  # lines of this second
        self._left_out = 0  # since the newest line that told

    def write(self, fields: Mapping[str, object], *, is_proven: bool) -> None:
        """One line; `at` is added in front. `is_proven`: the key was right."""
        if self._folder is None:
            return
        now = self._unix()
        if not is_proven and not self._may_write(int(now)):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        more = {"left_out": left_out} if left_out else {}
        at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        line = render({"at": at.replace("+00:00", "Z"), **fields, **more})
        try:
            self._append(f"{line}\n".encode(), now)
        except OSError as error:
            self._close()
            self.lost += 1
            if self.lost == 1 or self.lost % 10_000 == 0:
                log.warning("access log not written", lost=self.lost, exc_info=error)

    def _may_write(self, second: int) -> bool:
        if second != self._second:
            self._second, self._unproven = second, 0
        self._unproven += 1
        return self._unproven <= UNPROVEN_PER_S

    def _append(self, line: bytes, now: float) -> None:
        day = int(now // DAY_S)
        if self._handle is None or day != self._day or self._size > PART_BYTES:
            self._open(day)
            is_due = True  # a new day, or one part more
        else:
            is_due = now - self._looked_at > LOOK_S
        if is_due:
            self._looked_at = now
            self.clean()
        assert self._handle is not None  # noqa: S101 - `_open` made it, or raised
        os.write(self._handle, line)
        self._size += len(line)

    def _open(self, day: int) -> None:
        assert self._folder is not None  # noqa: S101 - `write` looked
        self._close()
        name = datetime.fromtimestamp(day * DAY_S, UTC).strftime("%Y%m%d")
        path = self._folder / f"access-{self._process}-{name}.jsonl"
        if path.exists() and path.stat().st_size > PART_BYTES:
            part = 1
            while (aside := path.with_suffix(f".jsonl.{part}")).exists():
                part += 1
            path.rename(aside)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._handle = os.open(path, flags, 0o600)
        self._day, self._size = day, os.fstat(self._handle).st_size

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def clean(self) -> None:
        """Remove what is older than `days`, and the oldest while all is more than `most_bytes`.

        Of every process of the node: a number of workers that shrank leaves files behind. What may
        still be written, the files of the newest day without a part's number, stays.
        """
        first = datetime.fromtimestamp(self._unix() - self._keep.days * DAY_S, UTC)
        first_name = first.strftime("%Y%m%d")
        total = 0
        found = sorted(self._files(), reverse=True)  # the newest first
        for day, _, path, size in found:
            total += size
            is_old, is_much = day < first_name, total > self._keep.most_bytes
            is_open = day == found[0][0] and path.suffix == ".jsonl"
            if not (is_old or is_much) or is_open:
                continue
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                path.unlink()
                if not is_old:
                    log.warning(
                        "access log cut before its time: give it more room",
                        file=path.name,
                        most_bytes=self._keep.most_bytes,
                    )

    def _files(self) -> Iterator[tuple[str, float, Path, int]]:
        """(day, Unix seconds of its newest line, path, bytes) of each."""
        if self._folder is None:
            return
        for path in self._folder.glob("access-*-[0-9]*.jsonl*"):
            day = path.name.partition(".")[0].rpartition("-")[2]
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                yield day, stat.st_mtime, path, stat.st_size
