"""What every sink must have, against what the store and the event pull say. No I/O.

store: rows a tenant is told of ─┐
GET /v1/events, at the end ──────┼─▶ the same events ─▶ each sink's share of them, once or more
GET /v1/events, all the while ───┘                     └▶ by `sequence`: GET /v1/messages
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from loadtest.campaign.traffic import NETWORKS
from loadtest.faults.judging import Check
from loadtest.sinks.cast import Part, Remedy
from loadtest.sinks.receiver import Event, Headers, Request
from loadtest.sinks.signed import BOTH, NEW, NONE, OLD

IN_FORCE_S: Final = 5.0  # a change of an endpoint, in every process (docs/webhooks.md) …
BUSY_S: Final = 15.0  # … and what a machine that is killed on may need on top of it
SHOWN: Final = 5
SHORTEST_SLOW_MS: Final = 13_900  # of 14 s; both sides round

Key = tuple[str, int]  # message, sequence


class Bodies:
    """Looks at each event as it arrives: numbers to be masked, texts, ids that do not fit."""

    def __init__(self, *, full_number: bool, is_batch: bool) -> None:
        self._full_number = full_number
        self._is_batch = is_batch
        self._ids: set[str] = set()  # of batches
        self.faults: Counter[str] = Counter()

    def see(self, headers: Headers, event: Event) -> None:
        """One event of one request; raises KeyError where it is none."""
        webhook_id = headers.get("webhook-id", "")
        if self._is_batch == (webhook_id == event["id"]):
            self.faults["webhook-id is not its event's, or a batch's is"] += 1
        data = event["data"]
        if event["type"].startswith("message."):
            self._see_message(event, data)
        elif "from" in data and ("****" in data["from"]) == self._full_number:
            self.faults["a phone's number is masked or whole against the endpoint's wish"] += 1

    def _see_message(self, event: Event, data: Mapping[str, Any]) -> None:
        number = number_of(int(data["metadata"]["n"]))
        if ("****" in data["to"]) == self._full_number:
            self.faults["a number is masked or whole against the endpoint's wish"] += 1
        told = repr(event)
        if number in told and not self._full_number:
            self.faults["a whole number stands somewhere in a masked event"] += 1
        if f"第{data['metadata']['n']}号" in told:
            self.faults["the text of a message is told"] += 1
        if event["type"] != f"message.{data['status']}":
            self.faults["type and status differ"] += 1


def number_of(n: int) -> str:
    """The digits of the phone that the n-th text goes to."""
    return f"86{NETWORKS[n % len(NETWORKS)]}{n:08d}"


@dataclass(slots=True)
class Heard:
    """One sink and its endpoint when all is over; times are Unix seconds."""

    part: Part
    requests: Sequence[Request]
    taken: Mapping[str, Event]
    times: Mapping[str, int]
    faults: Mapping[str, int] = field(default_factory=dict)  # of the bodies
    by_itself: int = 0  # events it had before its tenant did anything
    forgotten: Sequence[str] = ()  # … and those that it had not, nor were they parked for it
    attempts: Sequence[Mapping[str, Any]] = ()  # as /attempts lists them
    rotated_at: float = 0.0  # when the answer came; 0 = never
    told: Mapping[str, Any] = field(default_factory=dict)  # what the API said when it was asked


@dataclass(slots=True)
class Seen:
    """All that a run left behind."""

    heard: Sequence[Heard]
    pulled: Sequence[Event]  # at the end, from the beginning
    followed: Sequence[str]  # event ids as a reader got them while all went on
    owed: Collection[Key]  # what the stored rows say that a tenant is told
    views: Mapping[str, Mapping[str, Any]]  # GET /v1/messages, by id
    knocks: int = 0  # connections to where redirects led
    strangers: Collection[str] = ()  # addresses outside this machine that a worker called
    audited: int = 0  # endpoints that the gateway itself disabled, by the audit log
    trouble: Sequence[str] = ()  # faults that could not be done


def judge(seen: Seen) -> list[Check]:
    """Every promise and whether it was kept."""
    checks = [*_of_pull(seen), *_of_redirects(seen)]
    for heard in seen.heard:
        checks += _of_sink(heard, seen)
    checks += [_none(f"not done: {text}", ["once"]) for text in seen.trouble]
    return checks


def _of_pull(seen: Seen) -> Iterator[Check]:
    ids = [event["id"] for event in seen.pulled]
    told = {_key(event) for event in seen.pulled if event["type"].startswith("message.")}
    yield Check("events of the pull", f"{len(ids):,}", "> 0", bool(ids))
    yield _none("in the store and not in the pull", set(seen.owed) - told)
    yield _none("in the pull and not in the store", told - set(seen.owed))
    yield _none("out of order, or twice", [b for a, b in pairwise(ids) if b <= a])
    yield _none("missed by who reads on all the while", set(ids) - set(seen.followed))
    repeated = [one for one, times in Counter(seen.followed).items() if times > 1]
    yield _none("got twice by who reads on all the while", repeated)


def _of_redirects(seen: Seen) -> Iterator[Check]:
    knocks = [str(seen.knocks)] if seen.knocks else []
    yield _none("connections to where a redirect led", knocks)
    yield _none("addresses outside this machine that were called", seen.strangers)


def _of_sink(heard: Heard, seen: Seen) -> Iterator[Check]:
    name = heard.part.name
    wanted = [event for event in seen.pulled if wants(heard.part, event)]
    missing = [
        f"{event['type']} {event['id']} of {event['timestamp']}"
        for event in wanted
        if event["id"] not in heard.taken
    ]
    yield Check(f"{name}: events taken", f"{len(heard.taken):,}", f"{len(wanted):,}", not missing)
    yield _none(f"{name}: events lost", missing)
    yield _none(f"{name}: neither arrived nor parked", heard.forgotten)
    yield _none(f"{name}: events nobody pulled", set(heard.taken) - {e["id"] for e in seen.pulled})
    yield _none(f"{name}: ends otherwise than GET says", _order(heard, seen.views))
    yield _none(f"{name}: bodies", [f"{count} × {text}" for text, count in heard.faults.items()])
    yield from _of_signatures(heard)
    repeats = sum(heard.times.values()) - len(heard.times)
    yield Check(f"{name}: repeats, requests", f"{repeats:,}, {len(heard.requests):,}")
    late = len(wanted) - heard.by_itself
    if heard.part.remedy is Remedy.NONE:
        yield Check(f"{name}: arrived without help", f"{heard.by_itself:,}", "all", late <= 0)
    else:
        yield Check(f"{name}: {heard.part.remedy}", f"{late:,}")
    yield from _of_manner(heard, seen)


def wants(part: Part, event: Event) -> bool:
    """Whether the endpoint's filter takes the event."""
    kind = event["type"]
    return kind in part.events or ("message.*" in part.events and kind.startswith("message."))


def _order(heard: Heard, views: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Messages whose newest event, by `sequence` alone, is not what the API says of them.

    Only where the endpoint hears of everything: a filter hides ends.
    """
    if "message.*" not in heard.part.events:
        return []
    newest: dict[str, Mapping[str, Any]] = {}
    for event in heard.taken.values():
        data = event["data"]
        if event["type"].startswith("message.") and (
            data["id"] not in newest or newest[data["id"]]["sequence"] < data["sequence"]
        ):
            newest[data["id"]] = data
    return [
        f"{message}: {newest.get(message, {}).get('status')}, not {view['status']}"
        for message, view in views.items()
        if message not in newest
        or newest[message]["status"] != view["status"]
        or newest[message]["sequence"] > view["sequence"]
    ]


def _of_signatures(heard: Heard) -> Iterator[Check]:
    name = heard.part.name
    by = Counter(request.signed for request in heard.requests)
    yield _none(f"{name}: signed with neither secret", [f"{by[NONE]} requests"] if by[NONE] else [])
    if not heard.rotated_at:
        return
    yield Check(f"{name}: signed with both secrets", f"{by[BOTH]:,}", "> 0", by[BOTH] > 0)
    late = [
        f"{request.at - heard.rotated_at:.1f} s"
        for request in heard.requests
        if request.signed == OLD and request.at > heard.rotated_at + IN_FORCE_S + BUSY_S
    ]
    yield _none(f"{name}: the old secret alone, long after the rotation", late)
    yield _none(f"{name}: the new secret alone, in the overlap", [NEW] * by[NEW])


def _of_manner(heard: Heard, seen: Seen) -> Iterator[Check]:
    """What the endpoint's own story must show."""
    name, manner = heard.part.name, heard.part.manner
    codes = Counter(attempt["code"] for attempt in heard.attempts)
    if manner.hangs:
        yield _some(f"{name}: attempts that timed out", codes["webhook.timeout"])
    if manner.locations:
        yield _some(f"{name}: redirects refused", codes["webhook.redirect_refused"])
    if manner.cut_asked:
        yield _some(f"{name}: connections lost", codes["webhook.connection_lost"])
    if manner.delay_s:
        slow = [
            attempt
            for attempt in heard.attempts
            if attempt["code"] == "webhook.delivered" and attempt["ms"] >= SHORTEST_SLOW_MS
        ]
        yield _some(f"{name}: delivered after 14 s", len(slow))
    if manner.gone_after is not None:
        yield _some(f"{name}: answers 410 seen", codes["webhook.gone"])
        told = f"{heard.told.get('enabled')}, {heard.told.get('disabled_reason')}"
        is_told = told == "False, gone" and seen.audited > 0
        yield Check(f"{name}: enabled, why; audit rows", f"{told}; {seen.audited}", "", is_told)
        after = heard.told.get("requests_while_disabled", 0)
        yield _none(f"{name}: requests while it was disabled", ["x"] * after)
    if heard.part.remedy is Remedy.DEAD:
        yield _some(f"{name}: dead letters a timeline names", heard.told.get("dead_letters", 0))


def _key(event: Event) -> Key:
    return event["data"]["id"], event["data"]["sequence"]


def _none(name: str, found: Collection[object]) -> Check:
    """Good when there is nothing; else how much, and the first of it."""
    shown = "; ".join(str(one) for one in sorted(map(str, found))[:SHOWN])
    return Check(name, f"{len(found):,}" + (f": {shown}" if found else ""), "0", not found)


def _some(name: str, count: int) -> Check:
    return Check(name, f"{count:,}", "> 0", count > 0)
