"""When a channel's tenants are told: the first process that leaves it, the last that is back."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.channel_news import decide
from gateway.channel_notices import channel_row, notice_of_channel
from receipts.state import ChannelPath
from sms.config import WebhookEndpoint
from sms.ids import to_text
from sms.model import Carrier
from store.channel_news import Way
from tests.support.notify_world import TENANT, UNIX, World

WAYS = [(7, None), (7, Carrier.CM), (8, None)]
STALE_S = 5
STEPS = st.lists(
    st.tuples(
        st.integers(1, 3), st.sampled_from(["leave", "back", "kill", "wait"]), st.sampled_from(WAYS)
    ),
    max_size=60,
)


class Cluster:
    """Three processes and what stands in the table; time goes on with each step."""

    def __init__(self):
        self.now = 0
        self.rows = {}  # (way, process): (Left, seen)
        self.left: dict[int, dict[Way, tuple[str, float]]] = {1: {}, 2: {}, 3: {}}
        self.known: dict[int, frozenset[Way]] = dict.fromkeys(self.left, frozenset())
        self.told = []
        self.down = set()  # killed, and not begun again

    def look(self, process):
        ours = self.left[process]
        rows = [
            replace(row, is_stale=self.now - seen > STALE_S) for row, seen in self.rows.values()
        ]
        self.known[process] |= ours.keys()
        made = decide(rows, ours, self.known[process], process)
        for row in made.drop:
            del self.rows[row.way, row.process]
        for row in made.put + made.degraded:
            kept = self.rows.get((row.way, row.process))
            self.rows[row.way, row.process] = (kept[0] if kept else row, self.now)
        self.told += [(row.way, "degraded", row.since) for row in made.degraded]
        self.told += [(row.way, "recovered", row.since) for row in made.recovered]
        self.known[process] = frozenset(ours)

    def step(self, process, what, way):
        self.now += 1
        if what == "leave":
            self.left[process].setdefault(way, ("failures", float(self.now)))
        elif what == "back":
            self.left[process].pop(way, None)
        elif what == "kill":  # the next life begins with everything closed
            self.left[process], self.known[process] = {}, frozenset()
        self.down = self.down - {process} | ({process} if what == "kill" else set())
        for living in sorted({1, 2, 3} - self.down, key=lambda one: one != process):
            self.look(living)

    def quiet(self):
        for _ in range(2 * STALE_S + 2):
            self.now += 1
            for process in {1, 2, 3} - self.down:
                self.look(process)


@given(STEPS)
def test_it_is_told_by_turns_and_nothing_stays_degraded_that_nobody_has_left(steps):
    cluster = Cluster()
    for process, what, way in steps:
        cluster.step(process, what, way)
        for left in cluster.left.values():
            for one in left:  # who has left it has told so, or somebody had
                assert [what for way, what, _ in cluster.told if way == one][-1] == "degraded"
    cluster.down.clear()  # whoever was killed has a successor at last
    cluster.quiet()
    for way in WAYS:
        told = [one for one in cluster.told if one[0] == way]
        assert [what for _, what, _ in told] == ["degraded", "recovered"] * (len(told) // 2) + [
            "degraded"
        ] * (len(told) % 2)
        for gone, back in zip(told[::2], told[1::2], strict=False):
            assert gone[2] == back[2]  # the same outage
        is_left = any(way in left for left in cluster.left.values())
        assert is_left == (len(told) % 2 == 1)


def test_only_the_first_that_leaves_and_the_last_that_is_back_are_told():
    cluster = Cluster()
    for process, what in ((1, "leave"), (2, "leave"), (1, "back"), (3, "leave"), (2, "back")):
        cluster.step(process, what, (7, None))
    assert cluster.told == [((7, None), "degraded", 1.0)]
    cluster.step(3, "back", (7, None))
    assert cluster.told == [((7, None), "degraded", 1.0), ((7, None), "recovered", 1.0)]


def test_a_successor_that_finds_it_again_says_nothing_one_that_does_not_lets_the_others_tell():
    cluster = Cluster()
    cluster.step(1, "leave", (7, None))
    cluster.step(1, "kill", (7, None))
    cluster.step(1, "leave", (7, None))
    cluster.quiet()
    assert cluster.told == [((7, None), "degraded", 1.0)]
    cluster.step(1, "kill", (7, None))
    cluster.quiet()  # it did not even come back
    assert cluster.told == [((7, None), "degraded", 1.0), ((7, None), "recovered", 1.0)]


def row(path=ChannelPath.DEGRADED, event_id=7 << 22 | 5, **fields):
    given_ = {"carrier": None, "cause": "no_answer", "since": UNIX, "at": UNIX + 90.5, **fields}
    return channel_row(event_id=event_id, tenant=TENANT, path=path, channel=4, **given_)


def test_what_it_says():
    told = json.loads(notice_of_channel(row(), {4: "mobile-a"}).masked)
    assert told == {
        "id": "evt_0000000001c00005",
        "type": "channel.degraded",
        "timestamp": "2027-01-15T08:01:30.500Z",
        "data": {
            "id": "chn_0000000000000004",
            "name": "mobile-a",
            "carrier": None,
            "cause": "no_answer",
            "since": "2027-01-15T08:00:00.000Z",
            "sequence": 7 << 12 | 5,
        },
    }
    assert [json.loads(notice_of_channel(row(since=UNIX + ms / 1e3), {}).masked)["data"]["since"]
            for ms in (0.4, 1.0004, 90_499.9)] == [
        "2027-01-15T08:00:00.000Z", "2027-01-15T08:00:00.001Z", "2027-01-15T08:01:30.500Z"
    ]  # fmt: skip
    back = row(ChannelPath.RECOVERED, carrier=Carrier.CU, since=0.0, cause="slow")
    told = json.loads(notice_of_channel(back, {}).body(full_number=True))
    assert told["type"] == "channel.recovered"
    assert (told["data"]["carrier"], told["data"]["name"]) == ("CU", None)


async def test_what_an_endpoint_did_not_take_is_read_back_and_told_again():
    world = World()
    world.configure(
        WebhookEndpoint(1, TENANT, "https://a.example/", ("channel.degraded",), secrets=(b"k",)),
        WebhookEndpoint(2, TENANT, "https://b.example/", ("message.*",), secrets=(b"k",)),
    )
    made = row(event_id=world.ids.next())
    world.store.news[made.event_id] = made
    world.notifier.inherit([made])  # as after a takeover: nothing of it is in memory
    await world.tick()
    await world.tick(1)
    assert [one.webhook_id for one in world.requests] == [to_text("evt", made.event_id)]
    assert json.loads(world.requests[0].body)["data"]["cause"] == "no_answer"
    await world.tick(1)
    assert not world.store.parked
