"""The tenant: single sends and batches at a steady rate over kept connections.

Every text has a number of its own (the phone's last eight digits and `metadata.n`) and is sent
once, whatever the gateway answers: what carriers and sink got can be told apart text by text.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import aiohttp

FIRST: Final = 10_000_000
TICK_S: Final = 0.02
CATCH_UP_S: Final = 0.2  # a loop that was held sends so much at once, not more
OUTSTANDING: Final = 300  # requests; while nobody answers no more are added
CONNECTIONS: Final = 64
ANSWER_S: Final = 8.0
LONG_SHARE: Final = 0.1
LONG: Final = "。" * 150  # with its number and signature three segments in UCS-2
LONG_SEGMENTS: Final = 3
CLASSES: Final = ("otp", "transactional", "marketing")

UNKNOWN: Final = "unknown"  # no answer, or one that says nobody knows
NEVER_SENT: Final = "never sent"  # no connection was made

Json = dict[str, Any]


@dataclass(slots=True)
class Text:
    """One text and what the gateway said to it; times are Unix seconds."""

    n: int
    message_class: str
    segments: int
    sent_at: float
    answered_at: float = 0.0
    message_id: int = 0  # with the 202
    refusal: str = ""  # the code; UNKNOWN and NEVER_SENT are ours

    @property
    def number(self) -> str:
        """Where it goes, as carriers write it."""
        return f"86138{self.n:08d}"

    @property
    def is_refused(self) -> bool:
        """Whether the gateway said for certain that it does not take it."""
        return bool(self.refusal) and self.refusal != UNKNOWN

    def body(self) -> Json:
        """The fields of the request."""
        long = LONG if self.segments > 1 else ""
        return {
            "to": f"+{self.number}",
            "text": f"第{self.n}号{long}",
            "class": self.message_class,
            "metadata": {"n": str(self.n)},
        }


@dataclass(frozen=True, slots=True)
class Rates:
    """What flows in a second."""

    singles: float = 150
    batches: float = 3
    batch: int = 25

    def scaled(self, share: float) -> Rates:
        """The same mixture, more or less of it."""
        return Rates(self.singles * share, self.batches * share, self.batch)


class Traffic:
    """An open loop; `texts` grows until somebody takes them."""

    def __init__(self, url: str, rng: Random, rates: Rates) -> None:
        self._url = url
        self._rng = rng
        self._rates = rates
        self._next = FIRST
        self._pending: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self.texts: list[Text] = []
        self.newest_answered = 0.0  # when the request left whose 202 came last
        self.on_accepted: Callable[[int], None] = lambda _: None

    async def run(self, api_key: str) -> None:
        """Send while it is open, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        headers = {"Authorization": f"Bearer {api_key}"}
        async with aiohttp.ClientSession(
            self._url, timeout=timeout, connector=connector, headers=headers, trust_env=False
        ) as client:
            singles = batches = 0.0
            last = time.monotonic()
            while True:
                await asyncio.sleep(TICK_S)
                await self._flows.wait()
                now = time.monotonic()
                passed, last = min(now - last, CATCH_UP_S), now
                singles += passed * self._rates.singles
                batches += passed * self._rates.batches
                while singles >= 1:
                    singles -= 1
                    self._start(client, 0)
                while batches >= 1:
                    batches -= 1
                    self._start(client, self._rates.batch)

    def open(self) -> None:
        """Let it flow."""
        self._flows.set()

    async def close(self) -> list[Text]:
        """Let it flow no more, wait for the last answers; all texts since the last close."""
        self._flows.clear()
        await asyncio.sleep(2 * TICK_S)
        if self._pending:
            await asyncio.wait(set(self._pending))
        texts, self.texts = self.texts, []
        return texts

    def _start(self, client: aiohttp.ClientSession, batch: int) -> None:
        if len(self._pending) >= OUTSTANDING:
            return
        texts = [self._text() for _ in range(batch or 1)]
        self.texts += texts
        task = asyncio.get_running_loop().create_task(self._send(client, texts, is_batch=batch > 0))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def _text(self) -> Text:
        self._next += 1
        segments = LONG_SEGMENTS if self._rng.random() < LONG_SHARE else 1
        return Text(self._next, self._rng.choice(CLASSES), segments, time.time())

    async def _send(
        self, client: aiohttp.ClientSession, texts: Sequence[Text], *, is_batch: bool
    ) -> None:
        if is_batch:
            body: Json = {"messages": [text.body() for text in texts]}
            path = "/v1/batches"
        else:
            body, path = texts[0].body(), "/v1/messages"
        try:
            async with client.post(path, json=body) as answer:
                status, told = answer.status, await answer.json(content_type=None)
        except aiohttp.ClientConnectorError:
            self._refused(texts, NEVER_SENT)
            return
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            self._refused(texts, UNKNOWN)
            return
        if status != 202:
            code = str(told.get("code", status)) if isinstance(told, dict) else str(status)
            self._refused(texts, UNKNOWN if code == "outcome_unknown" else code)
        elif is_batch:
            for entry in told["rejected"]:
                self._refused([texts[entry["index"]]], str(entry["code"]))
            for entry in told["accepted"]:
                self._took(texts[entry["index"]], entry["id"])
        else:
            self._took(texts[0], told["id"])

    @staticmethod
    def _refused(texts: Sequence[Text], code: str) -> None:
        now = time.time()
        for text in texts:
            text.refusal, text.answered_at = code, now

    def _took(self, text: Text, message_id: str) -> None:
        text.message_id = int(message_id.removeprefix("msg_"), 16)
        text.answered_at = time.time()
        self.newest_answered = max(self.newest_answered, text.sent_at)
        self.on_accepted(1)


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel and await."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
