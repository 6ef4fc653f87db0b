"""The tenant: single sends and batches at a steady rate over kept connections.

Every text has a number of its own (the phone's last eight digits and `metadata.n`): what carriers
and sink got can be told apart text by text. Half of the requests have an Idempotency-Key. One of
those whose outcome nobody knows is sent again, the same bytes with the same key, until somebody
does; and one in twenty is sent again though its 202 came: the answer must be the same. What has no
key is sent once, whatever the gateway answers. Some texts are scheduled, and some are canceled
after their 202, over whatever connection and so by whatever worker comes. Some say themselves what
is to be done when their answer is lost: hold, or resend.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

import aiohttp

# China Mobile, Unicom, Telecom and Broadnet: each one's primary speaks another protocol
NETWORKS: Final = ("138", "186", "189", "192")
FIRST: Final = 10_000_000
TICK_S: Final = 0.02
CATCH_UP_S: Final = 0.2  # a loop that was held sends so much at once, not more
OUTSTANDING: Final = 300  # requests; while nobody answers no more are added
CONNECTIONS: Final = 64
ANSWER_S: Final = 8.0
ACCEPTED: Final = 202
LAST_OF: Final = 16  # requests on a connection, about: so that workers started later get some
LONG_SHARE: Final = 0.1
LONG: Final = "。" * 150  # with its number and signature three segments in UCS-2
LONG_SEGMENTS: Final = 3
KEYED_SHARE: Final = 0.5
REF_SHARE: Final = 0.2  # of the texts with a key: a client_ref too
AGAIN_SHARE: Final = 0.05  # of the requests with a key: sent again after their 202
SCHEDULED_SHARE: Final = 1 / 12
AHEAD_S: Final = (0.5, 3.0)  # they are sent so long after they were asked for
CANCEL_SHARE: Final = 0.5  # of what is scheduled
CANCEL_OTHERS: Final = 0.02
RETRY_S: Final = 30.0  # from the first try
PAUSE_S: Final = 0.25  # between two
POLICIES: Final = ("hold", "resend")
POLICY_SHARE: Final = 0.4  # of the texts name one of them, the others leave it to their class
CLASSES: Final = ("otp", "transactional", "marketing")

UNKNOWN: Final = "unknown"  # no answer, or one that says nobody knows
NEVER_SENT: Final = "never sent"  # no connection was made
# What was said to a cancel, the last time it was asked for.
CANCELED: Final = "canceled"
NOT_CANCELED: Final = "not canceled"
CANCEL_ANSWERS: Final = {200: CANCELED, 409: NOT_CANCELED}

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
    key: str = ""  # the Idempotency-Key of its request
    client_ref: str = ""
    tries: int = 0
    is_replayed: bool = False  # its 202 says that it is an earlier one's
    other_id: int = 0  # a second 202 named another message
    send_at: float = 0.0  # 0 = at once
    on_uncertain: str = ""  # one of POLICIES, or "" = what its class says
    is_unwanted: bool = False  # it is canceled after its 202
    cancel: str = ""  # CANCELED, NOT_CANCELED, UNKNOWN; "" = nobody asked for it

    @property
    def number(self) -> str:
        """Where it goes, as carriers write it."""
        return f"86{NETWORKS[self.n % len(NETWORKS)]}{self.n:08d}"

    @property
    def is_refused(self) -> bool:
        """Whether the gateway said for certain that it does not take it."""
        return bool(self.refusal) and self.refusal != UNKNOWN

    def body(self) -> Json:
        """The fields of the request."""
        long = LONG if self.segments > 1 else ""
        body: Json = {
            "to": f"+{self.number}",
            "text": f"第{self.n}号{long}",
            "class": self.message_class,
            "metadata": {"n": str(self.n)},
        }
        if self.client_ref:
            body["client_ref"] = self.client_ref
        if self.on_uncertain:
            body["on_uncertain"] = self.on_uncertain
        if self.send_at:
            body["send_at"] = datetime.fromtimestamp(self.send_at, UTC).isoformat()
        return body


@dataclass(frozen=True, slots=True)
class Rates:
    """What flows in a second."""

    singles: float = 150
    batches: float = 3
    batch: int = 25

    def scaled(self, share: float) -> Rates:
        """The same mixture, more or less of it."""
        return Rates(self.singles * share, self.batches * share, self.batch)


@dataclass(slots=True)
class Answer:
    """What one try came to; status 0 = no answer."""

    status: int
    told: Any
    is_replay: bool = False
    is_open: bool = False  # nobody knows yet what became of the request

    @property
    def code(self) -> str:
        """The problem's, UNKNOWN or NEVER_SENT."""
        return str(self.told.get("code", self.status)) if isinstance(self.told, dict) else "?"

    @property
    def is_for_now(self) -> bool:
        """Whether it says nothing of an earlier try with the same key."""
        return self.status in {0, 429, 503} or self.code == "idempotency.in_progress"


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
        self.on_answer: Callable[[Answer], None] = lambda _: None  # of each send, retries too

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
        if self._rng.random() < KEYED_SHARE:
            for text in texts:
                text.key = f"request-{texts[0].n}"
                if self._rng.random() < REF_SHARE:
                    text.client_ref = f"ref-{text.n}"
        task = asyncio.get_running_loop().create_task(self._send(client, texts, is_batch=batch > 0))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def _text(self) -> Text:
        self._next += 1
        now = time.time()
        segments = LONG_SEGMENTS if self._rng.random() < LONG_SHARE else 1
        text = Text(self._next, self._rng.choice(CLASSES), segments, now)
        if self._rng.random() < SCHEDULED_SHARE:
            text.send_at = round(now + self._rng.uniform(*AHEAD_S), 3)
        if self._rng.random() < POLICY_SHARE:
            text.on_uncertain = self._rng.choice(POLICIES)
        text.is_unwanted = self._rng.random() < (CANCEL_SHARE if text.send_at else CANCEL_OTHERS)
        return text

    async def _send(
        self, client: aiohttp.ClientSession, texts: Sequence[Text], *, is_batch: bool
    ) -> None:
        """One request until its outcome is known, as a tenant's backend would."""
        key = texts[0].key
        until = time.monotonic() + RETRY_S
        answer = await self._ask(client, texts, is_batch=is_batch)
        while key and texts[0].tries and answer.is_open and time.monotonic() < until:
            await asyncio.sleep(PAUSE_S)
            answer = await self._ask(client, texts, is_batch=is_batch)
        self._note(texts, answer, is_batch=is_batch)
        if key and answer.status == ACCEPTED and self._rng.random() < AGAIN_SHARE:
            self._compare(texts, await self._ask(client, texts, is_batch=is_batch))
        for text in texts:
            if text.is_unwanted and text.message_id:
                await self._cancel(client, text)

    async def _cancel(self, client: aiohttp.ClientSession, text: Text) -> None:
        """Cancel it, and ask again until somebody knows."""
        until = time.monotonic() + RETRY_S
        path = f"/v1/messages/msg_{text.message_id:016x}:cancel"
        text.cancel = UNKNOWN
        while text.cancel == UNKNOWN:
            try:
                async with client.post(path, json=None, headers={"Connection": "close"}) as got:
                    text.cancel = CANCEL_ANSWERS.get(got.status, UNKNOWN)
            except (aiohttp.ClientError, TimeoutError, OSError):
                text.cancel = UNKNOWN
            if time.monotonic() > until:
                return
            if text.cancel == UNKNOWN:
                await asyncio.sleep(PAUSE_S)

    async def _ask(
        self, client: aiohttp.ClientSession, texts: Sequence[Text], *, is_batch: bool
    ) -> Answer:
        """One try; a request counts as tried once its outcome may be unknown."""
        path = "/v1/batches" if is_batch else "/v1/messages"
        bodies = [text.body() for text in texts]
        body: Json = {"messages": bodies} if is_batch else bodies[0]
        headers = {"Idempotency-Key": f'"{texts[0].key}"'} if texts[0].key else {}
        if texts[0].n % LAST_OF == 0:
            headers["Connection"] = "close"
        tried = texts[0].tries
        try:
            async with client.post(path, json=body, headers=headers) as got:
                told = await got.json(content_type=None)
                is_replay = got.headers.get("Idempotent-Replayed") == "true"
                answer = Answer(got.status, told, is_replay)
        except aiohttp.ClientConnectorError:
            answer = Answer(0, {"code": NEVER_SENT})
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            answer = Answer(0, {"code": UNKNOWN})
        if answer.code in {UNKNOWN, "outcome_unknown"} or (tried and answer.is_for_now):
            answer.is_open = True
            for text in texts:
                text.tries += 1
        self.on_answer(answer)
        return answer

    def _note(self, texts: Sequence[Text], answer: Answer, *, is_batch: bool) -> None:
        told = answer.told
        if answer.status != ACCEPTED:
            self._refused(texts, UNKNOWN if answer.is_open else answer.code)
        elif is_batch:
            for entry in told["rejected"]:
                self._refused([texts[entry["index"]]], str(entry["code"]))
            for entry in told["accepted"]:
                self._took(texts[entry["index"]], entry["id"], answer)
        else:
            self._took(texts[0], told["id"], answer)

    @staticmethod
    def _compare(texts: Sequence[Text], again: Answer) -> None:
        """Asked once more for what has its 202: refused for now, or the same ids."""
        if again.status != ACCEPTED:
            return
        told = again.told
        ids = {entry["index"]: entry["id"] for entry in told.get("accepted", [])}
        for index, text in enumerate(texts):
            message_id = _id_of(ids.get(index, "msg_0") if "accepted" in told else told["id"])
            if text.message_id and message_id != text.message_id:
                text.other_id = message_id or -1

    @staticmethod
    def _refused(texts: Sequence[Text], code: str) -> None:
        now = time.time()
        for text in texts:
            text.refusal, text.answered_at = code, now

    def _took(self, text: Text, message_id: str, answer: Answer) -> None:
        text.message_id = _id_of(message_id)
        text.is_replayed = answer.is_replay
        text.answered_at = time.time()
        self.newest_answered = max(self.newest_answered, text.sent_at)
        self.on_accepted(1)


def _id_of(message_id: str) -> int:
    return int(message_id.partition("_")[2], 16)


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel and await."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
