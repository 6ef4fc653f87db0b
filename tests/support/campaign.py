"""Kill -9 under load: texts flow at a steady rate while a process of the gateway is killed.

    load ── POST ──▶ gateway ──▶ simulated carriers: their records are the judge
    kills ─ SIGKILL ─┘  └ journal: every segment is linked elsewhere as it appears, so that what
                          the dead worker had written is still there when the next one is done

Every text has a number (the phone's last eight digits and `metadata.n`) that is sent to the
gateway once, whatever the gateway answers.
"""

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import aiohttp
import psutil

from loadtest.campaign.traffic import NETWORKS
from receipts.state import fold
from sms.model import FINAL_STATES, State
from store import database
from store.journal import SUBMITTED, Journal, Replay
from store.read import Reader
from store.seal import Keyring, read_master_key
from tests.support.gateway_process import GatewayProcess

SINGLES_PER_S = 150
BATCHES_PER_S, BATCH = 2, 25
RATE = SINGLES_PER_S + BATCHES_PER_S * BATCH
TICK_S = 0.02
OUTSTANDING = 400  # requests; while nobody answers no more are added
ANSWER_S = 8.0
CLASSES = ("otp", "transactional", "marketing")
LONG = "。" * 150  # with its number and signature three segments in UCS-2
LONG_SEGMENTS = 3
AGAIN_S = 90.0  # from a kill to the next 202
DRAIN_S = 180.0  # until all is at its end; the machine may be busy

Json = dict[str, Any]


@dataclass
class Text:
    """One text and what the gateway said to it."""

    n: int
    message_class: str
    segments: int
    at: float  # Unix, when the request left
    message_id: str | None = None  # with the 202
    refusal: str = ""

    @property
    def number(self) -> str:
        """Where it goes, as the carriers write it."""
        return f"86{NETWORKS[self.n % len(NETWORKS)]}{self.n:08d}"

    def body(self) -> Json:
        """The fields of the request."""
        long = LONG if self.segments > 1 else ""
        return {
            "to": f"+{self.number}",
            "text": f"第{self.n}号{long}",
            "class": self.message_class,
            "metadata": {"n": str(self.n)},
        }


@dataclass
class Kill:
    """One kill -9 and what was seen of it."""

    number: int
    at: float  # Unix
    moment_s: float  # after the gateway took texts again
    accepted: int  # texts with a 202 so far, all in all
    worker: int  # pid
    killed: list[int]  # pids
    in_flight: int = 0  # messages accepted by then and not at their end
    down_s: float = 0.0  # until the next 202
    recovered: Json = field(default_factory=dict)  # what the next worker's log says, if it is new
    opened: set[str] = field(default_factory=set)  # message ids: sent, and the answer not known
    marked: set[str] = field(default_factory=set)  # of these the ones with a second copy


class Load:
    """The sender: an open loop at a steady rate."""

    def __init__(self, gateway: GatewayProcess, rng: Random, first: int) -> None:
        self._gateway = gateway
        self._rng = rng
        self._next = first
        self.texts: list[Text] = []
        self.accepted = 0
        self.newest_answered = 0.0  # when the request left whose 202 came last, Unix
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop`, then wait for what is under way."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": f"Bearer {self._gateway.sandbox['api_key']}"}
        async with aiohttp.ClientSession(
            self._gateway.url, timeout=timeout, connector=connector, headers=headers
        ) as client:
            due_singles = due_batches = 0.0
            last = time.monotonic()
            while not stop.is_set():
                await asyncio.sleep(TICK_S)
                now = time.monotonic()
                passed, last = min(now - last, 0.2), now
                due_singles += passed * SINGLES_PER_S
                due_batches += passed * BATCHES_PER_S
                while due_singles >= 1:
                    due_singles -= 1
                    self._start(client, 0)
                while due_batches >= 1:
                    due_batches -= 1
                    self._start(client, BATCH)
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _start(self, client: aiohttp.ClientSession, batch: int) -> None:
        if len(self._tasks) >= OUTSTANDING:
            return
        texts = [self._text() for _ in range(batch or 1)]
        self.texts += texts
        sending = self._batch(client, texts) if batch else self._single(client, texts[0])
        task = asyncio.get_running_loop().create_task(sending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _text(self) -> Text:
        self._next += 1
        is_long = self._rng.random() < 0.1
        segments = LONG_SEGMENTS if is_long else 1
        return Text(self._next, self._rng.choice(CLASSES), segments, time.time())

    async def _single(self, client: aiohttp.ClientSession, text: Text) -> None:
        status, told = await self._post(client, "/v1/messages", text.body())
        if status == 202:
            self._took(text, told["id"])
        else:
            text.refusal = told["code"]

    async def _batch(self, client: aiohttp.ClientSession, texts: list[Text]) -> None:
        body = {"messages": [text.body() for text in texts]}
        status, told = await self._post(client, "/v1/batches", body)
        if status != 202:
            for text in texts:
                text.refusal = told["code"]
            return
        for entry in told["accepted"]:
            self._took(texts[entry["index"]], entry["id"])
        for entry in told["rejected"]:
            texts[entry["index"]].refusal = entry["code"]

    async def _post(self, client: aiohttp.ClientSession, path: str, body: Json) -> tuple[int, Json]:
        try:
            async with client.post(path, json=body) as answer:
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return 0, {"code": type(error).__name__}

    def _took(self, text: Text, message_id: str) -> None:
        text.message_id = message_id
        self.accepted += 1
        self.newest_answered = max(self.newest_answered, text.at)


class JournalKeeper:
    """Holds a second link to every journal segment of process 0."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._source = gateway.data_dir / "journal" / "0000"
        self._kept = gateway.folder / "journal"

    async def run(self) -> None:
        """Link what is new, until cancelled; a segment lives far longer than one round."""
        while True:
            for path in self._source.glob("*-*"):
                target = self._kept / path.name.partition("-")[0] / "0000" / path.name
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(path, target)
            await asyncio.sleep(0.05)

    def replay(self, epoch: int) -> Replay:
        """What the worker of that epoch wrote."""
        replay = Journal.replay(self._kept / str(epoch), 0)
        assert replay.is_present, f"no journal of epoch {epoch} was kept"
        return replay


def open_messages(replay: Replay, segments: dict[int, int]) -> set[int]:
    """Messages with a segment that was written and not answered, or taken only in part.

    `segments`: how many each has, 1 where it is not named. Of a message whose segments were
    partly taken the rest can never follow: what joins them died with the worker.
    """
    found = set()
    for message_id, writes in replay.writes.items():
        newest = max((line.copy, line.attempt) for line in writes)
        written = Counter(x.segment for x in writes if (x.copy, x.attempt) == newest)
        answers = [x for x in replay.answers.get(message_id, ()) if (x.copy, x.attempt) == newest]
        answered = Counter(line.segment for line in answers)
        taken = {line.segment for line in answers if line.kind == SUBMITTED}
        is_unanswered = any(answered[segment] < count for segment, count in written.items())
        if is_unanswered or 0 < len(taken) < segments.get(message_id, 1):
            found.add(message_id)
    return found


def count_copies(copies: dict[str, list[int]], rows: Sequence[Json]) -> None:
    """Add to each segment's count what a carrier took; `copies`: number to a count per segment.

    A vendor cuts a long text itself: its record has one line for the whole.
    """
    for row in rows:
        counts = copies[row["to"]]
        taken = range(len(counts)) if row["total"] == 1 else [row["index"] - 1]
        for segment in taken:
            counts[segment] += 1


@dataclass
class Verdict:
    """Everything the judges said, after the drain."""

    kind: str
    seed: int
    texts: list[Text]
    kills: list[Kill]
    views: dict[str, Json]  # the API's view of every message with a 202
    copies: dict[str, list[int]]  # number to how often the carriers took each of its segments
    taken: dict[str, int]  # carrier to how many segments it took
    events: dict[str, list[Json]]  # message id to the sink's events about it
    stored: dict[str, State]  # every message in the database, folded
    held: set[str]  # message ids: not at an end
    illegal_rows: int
    quarantined: list[str]
    owed: set[tuple[str, int]]  # message id and sequence of every row a tenant must hear of
    sums: tuple[int, int]  # accepted, final by the per-flush counts
    illegal_transitions: float
    bad_signatures: int

    @property
    def accepted(self) -> dict[str, Text]:
        """The texts with a 202 by message id."""
        return {text.message_id: text for text in self.texts if text.message_id}

    @property
    def marked(self) -> set[str]:
        """Messages of which a second copy may be out, also those whose 202 got lost."""
        return {
            message_id
            for message_id, events in self.events.items()
            if any(event["data"]["duplicate_risk"] for event in events)
        } | {message_id for message_id, view in self.views.items() if view["duplicate_risk"]}

    @property
    def opened(self) -> set[str]:
        """What was open at any of the kills."""
        return set().union(*(kill.opened for kill in self.kills))

    def table(self) -> str:
        """A line per kill for a person."""
        refused = Counter(text.refusal for text in self.texts if text.refusal)
        lines = [
            f"kill -9 of {self.kind}, seed {self.seed}: {len(self.texts)} sent, "
            f"{len(self.accepted)} accepted, refused or unanswered {dict(refused)}, "
            f"{len(self.held)} held uncertain, {len(self.marked)} marked copies",
            "  #  moment s  accepted  in flight  down s  recovered: queued answered uncertain"
            "  open in journal  copies marked",
        ]
        for kill in self.kills:
            found = kill.recovered
            recovered = [str(found.get(name, "-")) for name in ("queued", "answered", "uncertain")]
            lines.append(
                f"{kill.number:3}  {kill.moment_s:8.2f}  {kill.accepted:8}  {kill.in_flight:9}"
                f"  {kill.down_s:6.1f}  {recovered[0]:>17} {recovered[1]:>8} {recovered[2]:>9}"
                f"  {len(kill.opened):15}  {len(kill.marked):13}"
            )
        return "\n".join(lines)


@dataclass
class Plan:
    """What a campaign does."""

    kind: str  # "worker" or "postgres"
    kills: int
    seed: int
    behaviour: Json = field(default_factory=dict)  # of the carriers
    moment_s: tuple[float, float] = (0.2, 1.8)  # after texts are accepted again


class Campaign:
    """One gateway, one load, kills at random moments."""

    def __init__(self, gateway: GatewayProcess, plan: Plan, first: int) -> None:
        self._gateway = gateway
        self._plan = plan
        self._rng = Random(plan.seed)
        self._load = Load(gateway, Random(plan.seed + 1), first)
        self._keeper = JournalKeeper(gateway)
        self._kills: list[Kill] = []

    async def run(self) -> Verdict:
        """Load, kills, drain, judges."""
        for carrier in self._gateway.carriers.values():
            carrier.behave(**self._plan.behaviour)
        keeping = asyncio.create_task(self._keeper.run())
        stop = asyncio.Event()
        sending = asyncio.create_task(self._load.run(stop))
        try:
            await self._flowing()
            for number in range(1, self._plan.kills + 1):
                await self._kill(number)
                await self._flowing()
            await asyncio.sleep(1.0)
        finally:
            stop.set()
            await sending
            keeping.cancel()
        views = await self._drain()
        return await self._judge(views)

    async def _flowing(self) -> None:
        """Until what was killed runs again and a request that left after that has its 202.

        Backends of a killed PostgreSQL may commit for a moment more: their 202 says nothing.
        """
        end = time.monotonic() + AGAIN_S
        kill = self._kills[-1] if self._kills else None
        while kill is not None and not await asyncio.to_thread(self._is_back, kill):
            self._check_time(end)
            await asyncio.sleep(0.05)
        since = time.time()
        while self._load.newest_answered <= since:
            self._check_time(end)
            await asyncio.sleep(0.01)
        if kill is not None:
            kill.down_s = time.time() - kill.at

    def _is_back(self, kill: Kill) -> bool:
        name = "worker-0" if self._plan.kind == "worker" else "postgres"
        return self._gateway.pids().get(name, kill.killed[0]) not in kill.killed

    def _check_time(self, end: float) -> None:
        if time.monotonic() > end:
            raise AssertionError(f"no text is accepted\n{self._gateway.logs()}")

    async def _kill(self, number: int) -> None:
        moment_s = self._rng.uniform(*self._plan.moment_s)
        # postgres: only its parent, as an impatient person would, or all of it at once
        is_all = self._rng.random() < 0.5
        await asyncio.sleep(moment_s)
        gateway = self._gateway
        pids = await asyncio.to_thread(gateway.pids)
        if self._plan.kind == "worker":
            killed = [pids["worker-0"]]
        else:
            killed = await asyncio.to_thread(gateway.family, "postgres")
            killed = killed[::-1] if is_all else killed[-1:]
        kill = Kill(number, 0.0, moment_s, self._load.accepted, pids["worker-0"], killed)
        psutil.Process(killed[0]).kill()
        for pid in killed[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended with its parent
                psutil.Process(pid).kill()
        kill.at = time.time()
        self._kills.append(kill)

    # -- after the last kill -----------------------------------------------------------------

    async def _drain(self) -> dict[str, Json]:
        """Ask for every accepted message until each is at its end."""
        views: dict[str, Json] = {}
        waiting = [text.message_id for text in self._load.texts if text.message_id]
        headers = {"Authorization": f"Bearer {self._gateway.sandbox['api_key']}"}
        end = time.monotonic() + DRAIN_S
        async with aiohttp.ClientSession(self._gateway.url, headers=headers) as client:
            while True:
                views.update(await self._ask(client, waiting))
                waiting = [m for m in waiting if not self._is_over(views[m])]
                if not waiting or time.monotonic() > end:
                    return views
                await asyncio.sleep(0.5)

    @staticmethod
    def _is_over(view: Json) -> bool:
        """At its end, or held: by its class, or because its one second copy is lost too."""
        is_held = view["class"] == "marketing" or view["duplicate_risk"]
        return view["final_at"] is not None or (view["status"] == "uncertain" and is_held)

    @staticmethod
    async def _ask(client: aiohttp.ClientSession, ids: Sequence[str]) -> dict[str, Json]:
        views: dict[str, Json] = {}
        queue = list(ids)

        async def ask() -> None:
            while queue:
                message_id = queue.pop()
                async with client.get(f"/v1/messages/{message_id}") as answer:
                    assert answer.status == 200, f"{message_id}: {await answer.text()}"
                    views[message_id] = await answer.json()

        await asyncio.gather(*(ask() for _ in range(8)))
        return views

    async def _judge(self, views: dict[str, Json]) -> Verdict:
        gateway = self._gateway
        texts = self._load.texts
        await self._events_arrive(views)
        events = await asyncio.to_thread(self._events)
        self._look_into_journals(texts, events)
        lives = [_life(found) for found in events.values()]
        for kill in self._kills:
            kill.in_flight = sum(begin < kill.at < end for begin, end in lives)
        verdict = Verdict(
            kind=self._plan.kind,
            seed=self._plan.seed,
            texts=texts,
            kills=self._kills,
            views=views,
            copies={},
            taken={},
            events=events,
            stored={},
            held=set(),
            illegal_rows=0,
            quarantined=[],
            owed=set(),
            sums=(0, 0),
            illegal_transitions=gateway.metric("illegal_transition_total"),
            bad_signatures=gateway.sink.counts()["bad_signatures"],
        )
        await asyncio.to_thread(self._read_carriers, verdict)
        await self._read_store(verdict)
        await self._look_again(verdict)
        marked = verdict.marked
        for kill in self._kills:
            kill.marked = kill.opened & marked
        return verdict

    async def _look_again(self, verdict: Verdict) -> None:
        """What was held when it was asked for may have ended since, by a receipt tried again."""
        late = [
            message_id
            for message_id, view in verdict.views.items()
            if view["final_at"] is None and message_id not in verdict.held
        ]
        if not late:
            return
        headers = {"Authorization": f"Bearer {self._gateway.sandbox['api_key']}"}
        async with aiohttp.ClientSession(self._gateway.url, headers=headers) as client:
            verdict.views.update(await self._ask(client, late))
        await self._events_arrive(verdict.views)
        verdict.events = await asyncio.to_thread(self._events)

    async def _events_arrive(self, views: dict[str, Json]) -> None:
        """Give the last webhooks their time."""
        finals = sum(view["final_at"] is not None for view in views.values())
        end = time.monotonic() + DRAIN_S / 2
        while time.monotonic() < end:
            counts = await asyncio.to_thread(self._gateway.sink.counts)
            if counts["distinct_messages_final"] >= finals:
                await asyncio.sleep(0.5)
                return
            await asyncio.sleep(0.2)

    def _events(self) -> dict[str, list[Json]]:
        found: dict[str, list[Json]] = {}
        record = self._gateway.data_dir / "carriers" / "sink.jsonl"
        with record.open(encoding="utf-8") as lines:
            for line in lines:
                event = json.loads(line)
                found.setdefault(event["data"]["id"], []).append(event)
        return found

    def _read_carriers(self, verdict: Verdict) -> None:
        verdict.copies = {text.number: [0] * text.segments for text in self._load.texts}
        for carrier in self._gateway.carriers.values():
            rows = carrier.submits()
            verdict.taken[carrier.name] = len(rows)
            count_copies(verdict.copies, rows)

    def _look_into_journals(self, texts: Sequence[Text], events: dict[str, list[Json]]) -> None:
        """Which worker was new after which kill, and what its predecessor left open."""
        sizes = {_number(m): found[0]["data"]["segments"] for m, found in events.items()}
        sizes |= {_number(text.message_id): text.segments for text in texts if text.message_id}
        told = [json.loads(line) for line in self._gateway.log_lines("worker-0", "recovered")]
        before = told[0]
        for kill, after in zip(self._new_workers(), told[1:], strict=True):
            kill.recovered = after
            replay = self._keeper.replay(before["epoch"])
            kill.opened = {_text(number) for number in open_messages(replay, sizes)}
            before = after

    def _new_workers(self) -> list[Kill]:
        """The kills after which another worker served: all of the worker, usually none else."""
        newest = self._gateway.pids()["worker-0"]
        following = [kill.worker for kill in self._kills[1:]] + [newest]
        return [
            kill
            for kill, worker in zip(self._kills, following, strict=True)
            if worker != kill.worker
        ]

    async def _read_store(self, verdict: Verdict) -> None:
        keyring = Keyring(read_master_key(self._gateway.data_dir / "master.key"))
        pool = await database.open_pool(self._gateway.dsn)
        try:
            reader = Reader(pool, keyring)
            ids = [row[0] for row in await pool.fetch("SELECT id FROM messages ORDER BY id")]
            for start in range(0, len(ids), 1000):
                for stored in (await reader.messages(ids[start : start + 1000])).values():
                    message = stored.message
                    for row in stored.rows:
                        before = message.state
                        verdict.illegal_rows += fold(message, [row])
                        if message.state not in (before, State.QUEUED):
                            verdict.owed.add((_text(message.id), row.sequence))
                    verdict.stored[_text(message.id)] = message.state
                    if message.state not in FINAL_STATES:
                        verdict.held.add(_text(message.id))
            rows = await pool.fetch("SELECT step, error FROM quarantine")
            verdict.quarantined = [f"{row[0]}: {row[1]}" for row in rows]
            sums = await pool.fetchrow("SELECT sum(accepted), sum(final) FROM deltas")
            assert sums is not None
            verdict.sums = (int(sums[0]), int(sums[1]))
        finally:
            await pool.close()


def _life(events: Sequence[Json]) -> tuple[float, float]:
    """From when to when a message was in flight, Unix; to infinity when it has no end."""
    newest = max((event["data"] for event in events), key=lambda data: data["sequence"])
    end = newest["final_at"]
    return _unix(newest["created_at"]), _unix(end) if end else float("inf")


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _number(message_id: str) -> int:
    return int(message_id.removeprefix("msg_"), 16)


def _text(number: int) -> str:
    return f"msg_{number:016x}"


async def run_both(plans: Sequence[tuple[GatewayProcess, Plan]]) -> list[Verdict]:
    """Campaigns side by side, each with its own gateway: what they wait for, they wait together."""
    return await asyncio.gather(
        *(
            Campaign(gateway, plan, 10_000_000 * (place + 1)).run()
            for place, (gateway, plan) in enumerate(plans)
        )
    )
