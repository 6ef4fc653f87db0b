"""What carriers and sink wrote down, read on from where the last look ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

SINK = "sink.jsonl"
LOOK_S: Final = 0.2


class Submit(NamedTuple):
    """One segment a carrier got; `at` in Unix seconds."""

    number: str  # digits
    segment: int  # from 0
    at: float
    is_taken: bool  # it has an id; otherwise the carrier said that it did not take it
    is_whole: bool = False  # all of its text: a vendor cuts a long one itself


@dataclass(frozen=True, slots=True)
class Event:
    """One event the sink took."""

    message_id: int
    sequence: int
    status: str
    final_at: float  # Unix seconds, 0 for an event that ends nothing
    is_marked: bool


class Tail:
    """The new whole lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def lines(self) -> Iterator[bytes]:
        """What was added since the last call; a line still being written waits for the next."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                yield line


class Records:
    """All records of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._carriers: dict[Path, Tail] = {}
        self._sink = Tail(folder / SINK)
        self.taken: Counter[str] = Counter()  # by carrier: segments, or whole texts of a vendor
        self.from_phones: Counter[str] = Counter()  # texts of `inbound.received`, repeats included

    def submits(self) -> list[Submit]:
        """Every submit since the last call."""
        for path in self._folder.glob("*.jsonl"):
            if path.name != SINK and path not in self._carriers:
                self._carriers[path] = Tail(path)
        found: list[Submit] = []
        for path, tail in self._carriers.items():
            fresh = [submit_of(line) for line in tail.lines()]
            self.taken[path.stem] += sum(submit.is_taken for submit in fresh)
            found += fresh
        return found

    def events(self) -> list[Event]:
        """Every event of a message since the last call, repeats included."""
        found: list[Event] = []
        for line in self._sink.lines():
            told = json.loads(line)
            if told["type"] == "inbound.received":
                self.from_phones[told["data"]["text"]] += 1
            else:
                found.append(event_of(told))
        return found

    async def until_told(self, owed: Iterable[tuple[int, int]], within_s: float) -> list[Event]:
        """All events, once those (message id, sequence) came or did not come in time."""
        missing = set(owed)
        found: list[Event] = []
        end = time.monotonic() + within_s
        while True:
            fresh = self.events()
            found += fresh
            missing -= {(event.message_id, event.sequence) for event in fresh}
            if not missing or time.monotonic() > end:
                return found
            await asyncio.sleep(LOOK_S)


def submit_of(line: bytes) -> Submit:
    """One line of a carrier's record."""
    told = json.loads(line)
    is_whole = told["total"] == 1
    at = unix(told["at"])
    return Submit(told["to"], told["index"] - 1, at, bool(told["carrier_id"]), is_whole)


def event_of(told: dict[str, Any]) -> Event:
    """One line of the sink's record."""
    data = told["data"]
    final_at = data["final_at"]
    return Event(
        int(data["id"].removeprefix("msg_"), 16),
        data["sequence"],
        data["status"],
        unix(final_at) if final_at else 0.0,
        data["duplicate_risk"],
    )


def unix(text: str) -> float:
    """RFC 3339 to Unix seconds."""
    return datetime.fromisoformat(text).timestamp()
