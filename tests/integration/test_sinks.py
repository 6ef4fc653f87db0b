"""The receiver that misbehaves, over a real socket."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from loadtest.sinks.manners import Manner
from loadtest.sinks.receiver import Receiver, receiving

pytestmark = pytest.mark.integration

EVENTS: list[dict[str, Any]] = [
    {"id": f"evt_{n}", "type": "message.delivered", "data": {}} for n in range(3)
]


async def test_a_receiver_takes_what_it_answered_and_nothing_else():
    receiver = Receiver(Manner(gone_after=1))
    async with receiving(receiver) as sink, aiohttp.ClientSession() as door:

        async def post(*events) -> int:
            body = {"type": "batch", "data": list(events)} if len(events) > 1 else events[0]
            async with door.post(sink.url, json=body, allow_redirects=False) as got:
                return got.status

        assert await post(*EVENTS[:2]) == 200
        assert await post(EVENTS[2]) == 410
        assert list(sink.taken) == [one["id"] for one in EVENTS[:2]]
        sink.manner = Manner(cut_asked=1.0)
        with pytest.raises(aiohttp.ClientError):
            await post(EVENTS[2])
        sink.manner = Manner(locations=("http://169.254.169.254/",))
        assert await post(EVENTS[2]) in (301, 302, 303, 307, 308)
        assert EVENTS[2]["id"] not in sink.taken
        sink.manner = Manner(cut_answering=1.0)
        assert await post(EVENTS[2]) == 200
        sink.manner = Manner()
        assert await post(EVENTS[2]) == 200
        assert await post({"no": "event"}) == 400
        assert sink.times[EVENTS[2]["id"]] == 2
        assert sink.bad == 1
    assert [request.is_taken for request in sink.requests].count(True) == 3
