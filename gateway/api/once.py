"""Exactly once at the door: the same Idempotency-Key is the same answer (RELIABILITY 1.4).

    work ─┬─ 202                                        the first with its key
          ├─ KeyTaken: it was stored before ───────────▶ the stored answer, or 422: another body
          ├─ a request of this process has the key ────▶ wait for its end, look, else work again
          ├─ one of another process has it (KeyBusy) ──▶ look for 2 s, else 409
          └─ any other refusal ────────────────────────▶ look: the stored answer, else the refusal

On the good path nothing is looked up: the store finds out by inserting the key. A request that
would be refused is looked up first, for a key is asked before limits, shedding and client_ref.
Only 202s are stored, so a refused request does not use up its key.
"""

from __future__ import annotations

import asyncio
import re
import time
from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway.api.answers import build_accepted, build_batch_accepted
from gateway.api.bodies import THREAD_BYTES, Batch, canonical, run_beside
from gateway.api.port import FlowPort, KeyedPort
from gateway.api.problems import Problem, ProblemError, retry_after
from gateway.api.verdicts import indexes_beside
from sms.errors import KeyBusy, KeyTaken, StoreUnavailable

if TYPE_CHECKING:
    from store.intake import Hasher, IntakeKey

WAIT_S = 2.0  # for the first request with the key
LOOK_S = 0.1  # between two looks for what another process stores
MAX_KEY = 255
RETRY_S = 1
_SLICE_S = 0.003
_LOOK_BYTES = 4096  # of a batch between two looks at the clock
# A string of RFC 8941, section 3.3.3, or the bare key; a bare one does not begin with a quote.
_QUOTED = re.compile(rb'"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_ESCAPED = re.compile(rb"\\(.)")
_BARE = re.compile(rb"[\x21\x23-\x7e][\x21-\x7e]*")

Work = Callable[[], Awaitable[bytes]]
Replay = Callable[[int], Awaitable[bytes]]  # of the first message that the key brought


class HeldError(Exception):
    """A request of this process has one of the keys; `holder` is done when it is over."""

    def __init__(self, holder: Future[None]) -> None:
        super().__init__("a key is held")
        self.holder = holder


def parse_key(value: bytes | None) -> bytes | None:
    """The key in an Idempotency-Key header; raises the 400. `"a"` and `a` are the same key."""
    if value is None:
        return None
    value = value.strip(b" \t")
    quoted = _QUOTED.fullmatch(value)
    name = b""
    if quoted is not None:
        name = quoted[1]
        if b"\\" in name:
            name = _ESCAPED.sub(rb"\1", name)
    elif _BARE.fullmatch(value):
        name = value
    if not 1 <= len(name) <= MAX_KEY:
        detail = (
            f"The Idempotency-Key header must be 1 to {MAX_KEY} visible ASCII characters, bare or "
            "in double quotes."
        )
        raise ProblemError(Problem("idempotency.malformed", detail))
    return name


async def digest_one(hasher: Hasher, body: bytes) -> bytes:
    """What the body of a single send says, however it is written down."""
    if len(body) <= THREAD_BYTES:
        return digest_small(hasher, body)
    found = hasher.body()
    found.update(await run_beside(canonical, body))
    return found.digest()


def digest_small(hasher: Hasher, body: bytes) -> bytes:
    """`digest_one`, only for a body of at most `THREAD_BYTES`."""
    found = hasher.body()
    found.update(canonical(body))
    return found.digest()


async def digest_batch(
    hasher: Hasher, batch: Batch, monotonic: Callable[[], float] = time.monotonic
) -> bytes:
    """What the body of a batch says; long ones let others have the loop in between."""
    found = hasher.body()
    unlooked = 0
    turn_ends = monotonic() + _SLICE_S
    for raw in (batch.raw_defaults, *batch.entries):
        unlooked += len(raw)
        if unlooked > _LOOK_BYTES:
            unlooked = 0
            if monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = monotonic() + _SLICE_S
        text = canonical(raw) if len(raw) <= THREAD_BYTES else await run_beside(canonical, raw)
        found.update(b"%d:" % len(text))  # so that no entry can continue another one
        found.update(text)
    return found.digest()


class Once:
    """Gives a request with keys its one answer."""

    def __init__(self, flow: FlowPort, monotonic: Callable[[], float]) -> None:
        self._flow = flow
        self._monotonic = monotonic

    async def do(self, key: IntakeKey | None, work: Work, replay: Replay) -> tuple[bytes, bool]:
        """The body of the 202, and whether it is a stored one; raises the refusal.

        `key` is the request's, None when it has client_refs only. `work` admits and accepts: it
        may be called again, each time from the start.
        """
        until = self._monotonic() + WAIT_S
        found: KeyedPort | None
        while True:
            try:
                holder = None if key is None else self._flow.holder((key,))
                if holder is None:
                    return await work(), False
                found = await self._after(holder, key, until)
            except HeldError as held:
                found = await self._after(held.holder, key, until)
            except KeyTaken as taken:
                found = taken
            except KeyBusy:
                found = await self._await_other(key, until)
            except ProblemError as refusal:
                found = await self._find_or(key, refusal)
            if found is not None:
                return await replayed(key, found, replay), True

    async def _after(
        self, holder: Future[None], key: IntakeKey | None, until: float
    ) -> KeyedPort | None:
        """What is stored under the key once its holder is over; raises the 409."""
        await asyncio.wait({holder}, timeout=max(0.0, until - self._monotonic()))
        if not holder.done():
            raise _in_progress(key)
        return await self._find(key)

    async def _await_other(self, key: IntakeKey | None, until: float) -> KeyedPort:
        """What another process stores under the key by then; raises the 409.

        By looking: inserting again would hold up the others that have keys each time.
        """
        while self._monotonic() < until and key is not None:
            found = await self._find(key)
            if found is not None:
                return found
            await asyncio.sleep(LOOK_S)
        return await self._find_or(key, _in_progress(key))

    async def _find_or(self, key: IntakeKey | None, refusal: ProblemError) -> KeyedPort:
        """What is stored under the key; raises the refusal when nothing is."""
        if refusal.problem.code == "outcome_unknown":  # the store was asked and could not say
            raise refusal
        found = await self._find(key)
        if found is None:
            raise refusal
        return found

    async def _find(self, key: IntakeKey | None) -> KeyedPort | None:
        if key is None:
            return None
        try:
            return await self._flow.intake.find(key)
        except StoreUnavailable:
            raise _store_away() from None

    # -- stored answers ------------------------------------------------------------------------

    async def one(self, tenant: int, first_id: int) -> bytes:
        """The answer of a single send again, from its row."""
        try:
            stored = await self._flow.reader.message(first_id, tenant)
        except StoreUnavailable:
            raise _store_away() from None
        if stored is None:
            raise RuntimeError("a key leads to no message")
        return build_accepted(stored.message)

    async def batch(self, tenant: int, first_id: int) -> bytes:
        """The answer of a batch again, from its rows and the verdicts kept beside them."""
        try:
            batch = await self._flow.reader.batch(first_id, tenant)
            if batch is None:
                raise RuntimeError("a key leads to no batch")
            sizes = await self._flow.reader.segments(batch.first_id, batch.last_id)
        except StoreUnavailable:
            raise _store_away() from None
        rejected = batch.verdicts or b"[]"
        places = indexes_beside(rejected, len(sizes))
        ids = range(batch.first_id, batch.last_id + 1)
        return build_batch_accepted(zip(places, ids, sizes, strict=True), first_id, rejected)


async def replayed(key: IntakeKey | None, found: KeyedPort, replay: Replay) -> bytes:
    """The stored answer; raises the 422 when another body came with the key."""
    if key is None or found.digest != key.digest:
        detail = "The Idempotency-Key came with another body before; nothing was accepted now."
        raise ProblemError(Problem("idempotency.mismatch", detail))
    return await replay(found.first_id)


def _in_progress(key: IntakeKey | None) -> ProblemError:
    if key is None:
        detail = "Another request with the same client_ref is just being stored."
        return ProblemError(retry_after("client_ref.in_progress", detail, RETRY_S))
    detail = "The first request with this Idempotency-Key has not ended yet."
    return ProblemError(retry_after("idempotency.in_progress", detail, RETRY_S))


def _store_away() -> ProblemError:
    detail = "The store does not answer, so the key is not known; nothing was accepted now."
    return ProblemError(retry_after("store.unavailable", detail, RETRY_S))
