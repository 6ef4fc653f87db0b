"""What a vendor's call brought, from the door to the COMMIT and back.

    bring ─▶ reports, texts with the call as their token ─▶ flow ═COMMIT═▶ answer ─▶ bring returns

A call ends as one: it is kept when all that it brought is durable. What is not kept in time is not
forgotten, but the vendor is told to call again, and a repeat changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from adapters.http.vendor import Pushed
from sms.model import Inbound, Report

KEPT_S: Final = 4.0  # vendors give up after 5 s and more
SLICE: Final = 500  # reports settled in one turn of the loop, some 5 ms


class Sink(Protocol):
    """The flow, as far as calls need it."""

    def reports(self, channel: int, reports: Sequence[Report]) -> None:
        """Status reports; answered by their tokens."""
        ...

    def inbound(self, channel: int, texts: Sequence[Inbound]) -> None:
        """Texts from phones; answered by their tokens."""
        ...


class _Call:
    """The token of everything that one call brought."""

    __slots__ = ("kept", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def answered(self, *, accepted: bool) -> None:
        """One of its reports or texts is durable, or was refused."""
        self.left -= 1
        if not self.kept.done() and (not accepted or not self.left):
            self.kept.set_result(accepted)


class Calls:
    """The calls of one worker whose reports and texts are on their way."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._unanswered = 0  # tokens that are out, also of calls that waited too long

    async def bring(self, channel: int, pushed: Pushed) -> bool:
        """Hand everything over; True when it is durable, False when the vendor must call again."""
        items = len(pushed.reports) + len(pushed.texts)
        if not items:
            return True
        call = _Call(items)
        try:
            async with asyncio.timeout(KEPT_S):
                await self._hand_over(channel, pushed, call)
                return await asyncio.shield(call.kept)
        except TimeoutError:
            return False

    async def _hand_over(self, channel: int, pushed: Pushed, call: _Call) -> None:
        for start in range(0, len(pushed.reports), SLICE):
            reports = pushed.reports[start : start + SLICE]
            self._sign(channel, reports, call)
            self._sink.reports(channel, reports)
            await asyncio.sleep(0)
            if call.kept.done():
                return
        for start in range(0, len(pushed.texts), SLICE):
            texts = pushed.texts[start : start + SLICE]
            self._sign(channel, texts, call)
            self._sink.inbound(channel, texts)
            await asyncio.sleep(0)

    def _sign(self, channel: int, items: Sequence[Report | Inbound], call: _Call) -> None:
        """Whatever the vendor's code wrote there: a call speaks for its own channel alone."""
        for item in items:
            item.channel, item.token = channel, call
        self._unanswered += len(items)

    def answer(self, tokens: Sequence[object], *, accepted: bool) -> Sequence[object]:
        """Answer what came by calls; returns the tokens that did not."""
        if not self._unanswered:
            return tokens
        others: list[object] = []
        for token in tokens:
            if isinstance(token, _Call):
                self._unanswered -= 1
                token.answered(accepted=accepted)
            else:
                others.append(token)
        return others
