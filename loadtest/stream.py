"""One way of one connection through the fault proxy: what becomes of its bytes. No sockets.

    feed(data, now) ─▶ drop? ─▶ cut ─▶ garble ─▶ held until it is due ─▶ ready(now)

Bytes are never reordered, whatever the jitter: it is a TCP stream.
"""

from __future__ import annotations

import math
from collections import deque
from random import Random
from typing import Final

from loadtest.linkfault import Way

PIECE_S: Final = 0.05  # what is throttled passes in pieces of so long
HELD_MAXIMUM: Final = 1 << 20  # bytes; beyond it the sender has to wait, as with a full buffer


class Stream:
    """What was read and has not passed yet."""

    def __init__(self, way: Way, rng: Random) -> None:
        self.has_hole = False  # bytes of it were dropped: what follows makes no sense any more
        self.passed = 0  # bytes given out by `ready`
        self.dropped = 0
        self.garbled = 0
        self._way = way
        self._rng = rng
        self._held: deque[tuple[float, bytes]] = deque()  # due at, bytes
        self._held_bytes = 0
        self._counted = 0  # bytes fed since the fault was set
        self._due_at = 0.0  # of the newest piece
        self._is_cut = False
        self._to_next_garble = 0
        self._draw_garble()

    @property
    def is_full(self) -> bool:
        """Whether no more should be read from the sender for now."""
        return self._held_bytes >= HELD_MAXIMUM

    @property
    def is_held(self) -> bool:
        """Whether what comes next would have to wait, the news of the end too."""
        return bool(self._held) or self._way.stall

    @property
    def is_dropping(self) -> bool:
        """Whether what comes is thrown away."""
        return self._way.drop

    @property
    def is_over(self) -> bool:
        """Whether it was cut and everything before the cut has passed."""
        return self._is_cut and not self._held

    @property
    def next_due(self) -> float | None:
        """When to call `ready` again; None = not before something changes."""
        return self._held[0][0] if self._held and not self._way.stall else None

    def change(self, way: Way, now: float) -> None:
        """Another fault from now on; what is held is timed by it."""
        self._way = way
        self._counted = 0
        self._due_at = now
        self._draw_garble()
        held = b"".join(data for _, data in self._held)
        self._held.clear()
        self._held_bytes = 0
        if held:
            self._hold(held, now)

    def feed(self, data: bytes, now: float) -> None:
        """Bytes from the sender."""
        if self._is_cut:
            return
        way = self._way
        if way.drop:
            self.has_hole = True
            self.dropped += len(data)
            return
        if way.cut_after and self._counted + len(data) >= way.cut_after:
            data = data[: way.cut_after - self._counted]
            self._is_cut = True
        if way.garble_share or way.garble_at is not None:
            data = self._garble(data)
        self._counted += len(data)
        self._hold(data, now)

    def ready(self, now: float) -> bytes:
        """What may pass now."""
        if self._way.stall:
            return b""
        found = []
        while self._held and self._held[0][0] <= now:
            found.append(self._held.popleft()[1])
        data = b"".join(found)
        self._held_bytes -= len(data)
        self.passed += len(data)
        return data

    def _hold(self, data: bytes, now: float) -> None:
        way = self._way
        delay_ms = way.delay_ms + (self._rng.random() * way.jitter_ms if way.jitter_ms else 0)
        due_at = max(now + delay_ms / 1000, self._due_at)
        self._held_bytes += len(data)
        if not way.bytes_per_s:
            self._held.append((due_at, data))
        else:
            size = max(1, int(way.bytes_per_s * PIECE_S))
            for start in range(0, len(data), size):
                piece = data[start : start + size]
                due_at += len(piece) / way.bytes_per_s
                self._held.append((due_at, piece))
        self._due_at = due_at

    def _garble(self, data: bytes) -> bytes:
        changed = bytearray(data)
        at = self._way.garble_at
        if at is not None and 0 <= at - self._counted < len(data):
            changed[at - self._counted] ^= 0xFF
            self.garbled += 1
        place = self._to_next_garble
        if self._way.garble_share:
            while place < len(data):
                changed[place] ^= self._rng.randrange(1, 256)
                self.garbled += 1
                place += 1 + self._gap()
            self._to_next_garble = place - len(data)
        return bytes(changed)

    def _draw_garble(self) -> None:
        self._to_next_garble = self._gap() if self._way.garble_share else 0

    def _gap(self) -> int:
        """Untouched bytes up to the next changed one: geometric, one draw for each change."""
        share = self._way.garble_share
        if share >= 1:
            return 0
        return int(math.log(1 - self._rng.random()) / math.log(1 - share))
