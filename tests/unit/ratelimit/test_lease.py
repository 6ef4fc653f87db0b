"""The law of shared buckets by property: whatever happens to processes, calls and Valkey."""

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.lease import LEASE_S, Ask, Lease
from tests.support.shared_bucket import UNIT, SharedBuckets

KEY = "b"


def args_of(ask: Ask) -> list[int]:
    return [
        *(ask.rate, ask.depth, ask.reserve, ask.spent, ask.granted),
        *(ask.hold, ask.want, ask.least),
    ]


@dataclass
class Process:
    name: str
    lease: Lease
    needs: list[int] = field(default_factory=list)
    ask: Ask | None = None
    sent_at: float = 0.0
    answer: list[int] | None = None
    taken: list[int] = field(default_factory=list)  # what may be given back
    backs: list[int] = field(default_factory=lambda: [0, 0])  # given back: kept here, in a call


class World:
    """Some processes, one Valkey, calls that arrive late, once, twice or never."""

    def __init__(self, rate: float, depth: int, count: int) -> None:
        self.rate, self.depth, self.count = rate, depth, count
        self.valkey = SharedBuckets()
        self.names = iter(range(10_000))
        self.processes = [self.start() for _ in range(count)]
        self.spent: list[tuple[float, int]] = []  # when, segments; given back: less than 0
        self.wipes: list[float] = []
        self.outages = 0
        self.is_out = False
        self.alone_s = 0.0  # process-seconds on shares while Valkey served

    def start(self) -> Process:
        return Process(f"p{next(self.names)}", Lease(KEY, self.rate, self.depth, live=self.count))

    @property
    def now(self) -> float:
        return self.valkey.now_us / 1e6

    def advance(self, ms: int) -> None:
        self.valkey.now_us += ms * 1000
        if not self.is_out:
            self.alone_s += ms / 1000 * sum(p.lease.is_local() for p in self.processes)

    def take(self, process: Process, n: int) -> None:
        if process.ask is not None and process.needs:
            return  # nobody overtakes those that wait
        if process.lease.take(n, self.now) == 0.0:
            self.note(process, n)

    def note(self, process: Process, n: int) -> None:
        self.spent.append((self.now, n))
        process.taken.append(n)

    def put_back(self, process: Process) -> None:
        if process.taken:
            n = process.taken.pop()
            process.lease.put_back(n, self.now)
            if process.lease.is_local():
                self.spent.append((self.now, -n))
            else:
                process.backs[0] += n

    def send(self, process: Process, needs: list[int]) -> None:
        if process.ask is None:
            process.needs = needs
            process.sent_at = self.now
            process.ask = process.lease.ask(self.now, needs)
            process.backs = [0, sum(process.backs)]

    def arrive(self, process: Process) -> None:
        """It reaches Valkey; a second time if the client were to repeat it."""
        if process.ask is not None and not self.is_out:
            process.answer = self.valkey.call(process.name, [KEY], args_of(process.ask))
            if process.backs[1]:  # from here on others can have it
                self.spent.append((self.now, -process.backs[1]))
                process.backs[1] = 0

    def hear(self, process: Process) -> None:
        if process.ask is None or process.answer is None:
            return
        out, level = process.answer
        process.lease.told(process.ask, out, level / 1000, process.sent_at, self.now)
        process.ask = process.answer = None
        for n in process.needs:
            if process.lease.take(n, self.now) == 0.0:
                self.note(process, n)
        process.needs = []

    def drain(self, process: Process) -> None:
        """Spend everything there is, at one moment: what is held, then what Valkey has."""
        if process.ask is None:
            if process.lease.held:
                self.take(process, process.lease.held)
            for _ in range(2):  # the first call also brings what has grown
                row = self.valkey.rows.get(KEY)
                n = min(self.depth, (row.level if row else self.depth * UNIT) // UNIT)
                self.send(process, [n] if n else [])
                self.arrive(process)
                self.hear(process)

    def give_up(self, process: Process) -> None:
        """No answer in time: on the share from now on; what waited is decided there."""
        if process.ask is not None:
            process.ask = process.answer = None
            process.lease.go_local(self.now)
            needs, process.needs = process.needs, []
            for n in needs:
                self.take(process, n)

    def crash(self, process: Process) -> None:
        self.processes[self.processes.index(process)] = self.start()

    def wipe(self) -> None:
        self.valkey.rows.clear()
        self.wipes.append(self.now)

    def spend_share(self, process: Process) -> None:
        self.take(process, process.lease.left(self.now))

    def outage(self) -> None:
        if not self.is_out:
            self.outages += 1
        self.is_out = not self.is_out


CALM = (
    *("advance", "drain", "take", "take", "call", "call"),
    *("send", "arrive", "hear", "tick", "put_back", "crash"),
)
STORMY = (*CALM, *CALM, "give_up", "spend_share", "spend_share", "fail", "wipe", "outage")
STEPS = 150

worlds = st.builds(
    World,
    st.sampled_from([0.5, 10.0, 450.0, 1000.0]),
    st.sampled_from([1, 5, 40]),
    st.integers(1, 4),
)
walks = st.integers(0, 1 << 32).map(random.Random)


def step(world: World, name: str, chance: random.Random) -> None:
    """One of the things that can happen, to one of the processes."""
    process = chance.choice(world.processes)
    needs = [chance.choice([1, 2, 5, 30]) for _ in range(chance.choice([0, 1, 2]))]
    if name == "advance":
        world.advance(chance.choice([1, 50, 450, 950, 1790, 1850, 3000]))
    elif name in ("wipe", "outage"):
        getattr(world, name)()
    elif name == "take":
        world.take(process, chance.choice([1, 2, 5, 30]))
    elif name == "send":
        world.send(process, needs)
    elif name == "tick":
        process.lease.tick(world.now)
    elif name == "call":
        world.send(process, needs)
        world.arrive(process)
        world.hear(process)
    elif name == "fail":
        world.send(process, needs)
        world.give_up(process)
    else:
        getattr(world, name)(process)


@settings(max_examples=100, deadline=None)
@given(worlds, walks)
def test_in_any_window_all_processes_together_stay_within_rate_times_t_plus_depth(world, chance):
    before = world.now
    for _ in range(STEPS):
        step(world, chance.choice(CALM), chance)
    fill = 0.0  # a bucket that runs over shows the window that is too full
    for at, n in world.spent:
        fill = max(0.0, max(0.0, fill - world.rate * (at - before)) + n)
        before = at
        assert fill <= world.depth + 1e-6


@settings(max_examples=100, deadline=None)
@given(worlds, walks)
def test_wipes_and_outages_cost_one_depth_each_and_lost_calls_the_share_of_who_lost_them(
    world, chance
):
    begin = world.now
    for _ in range(STEPS):
        step(world, chance.choice(STORMY), chance)
        total = sum(n for _, n in world.spent)
        law = world.rate * (world.now - begin)
        law += world.depth * (1 + len(world.wipes) + world.outages)
        assert total <= law + world.rate / world.count * world.alone_s + 1e-6


@settings(max_examples=100, deadline=None)
@given(worlds, walks)
def test_what_is_held_and_what_is_left_never_exceed_the_depth(world, chance):
    for _ in range(STEPS):
        step(world, chance.choice(CALM), chance)
        held = sum(p.lease.held for p in world.processes if world.now < p.lease.until)
        assert KEY not in world.valkey.rows or held + world.valkey.left(KEY) <= world.depth


def talk(world: World, process: Process, needs: list[int]) -> int:
    """One call that is answered; how much was taken by it."""
    before = len(world.spent)
    world.send(process, needs)
    world.arrive(process)
    world.hear(process)
    return int(sum(n for _, n in world.spent[before:]))


def test_all_or_nothing_leaves_the_rest_to_the_others():
    world = World(10.0, 20, 2)
    one, two = world.processes
    assert talk(world, one, [15]) == 15
    assert talk(world, one, [15]) == 0
    assert talk(world, two, [5]) == 5  # at the same moment


def test_a_small_bucket_is_never_held_ahead_and_a_large_one_in_blocks():
    world = World(400.0, 800, 4)  # 100 per process: not above
    assert talk(world, world.processes[0], [1]) == 1
    assert world.processes[0].lease.held == 0
    world = World(404.0, 800, 4)
    assert talk(world, world.processes[0], [1]) == 1
    assert world.processes[0].lease.held == 10
    world = World(10.0, 20, 1)  # alone: nobody could miss it
    assert talk(world, world.processes[0], [1]) == 1
    assert world.processes[0].lease.held == 2


def test_blocks_grow_with_the_pace_up_to_their_bound():
    world = World(10_000.0, 20_000, 2)
    lease = world.processes[0].lease
    seen = []
    for _ in range(12):
        world.advance(100)
        lease.tick(world.now)
        talk(world, world.processes[0], [])
        seen.append(lease.held)
        while lease.held:
            world.take(world.processes[0], lease.held)
    assert seen[0] == 250  # an eighth of the most
    assert seen[-1] == lease.block == 2000


def test_what_is_not_used_goes_back_when_idle():
    world = World(1000.0, 1000, 2)
    one, two = world.processes
    begin = world.now
    talk(world, one, [100])
    for _ in range(4):  # the first one saw the take
        world.advance(100)
        is_due = one.lease.tick(world.now)
    assert is_due
    talk(world, one, [])
    assert one.lease.held == 8  # a few, for who sends a message a second
    while one.lease.held:
        world.advance(100)
        if one.lease.tick(world.now):
            talk(world, one, [])
    assert world.now - begin < 2.5
    world.advance(1000)
    assert not one.lease.has_news()
    assert talk(world, two, [1000]) == 1000


def test_alone_a_message_every_half_second_is_taken_from_what_is_held():
    world = World(1000.0, 1000, 1)
    process = world.processes[0]
    talk(world, process, [1])
    calls = 0
    for tick in range(1, 200):
        world.advance(100)
        if tick % 5 == 0:
            assert process.lease.held >= 1
            world.take(process, 1)
        if process.lease.tick(world.now):
            talk(world, process, [])
            calls += 1
    assert len(world.spent) == 40
    assert calls <= 20 / (0.9 * LEASE_S - 0.5) + 1


def test_the_tokens_of_a_killed_process_come_back_with_its_lease():
    world = World(1000.0, 1000, 2)
    one, two = world.processes
    talk(world, one, [1])
    held = one.lease.held
    assert held > 0
    world.crash(one)
    world.advance(int(LEASE_S * 500))
    assert talk(world, two, [1000]) == 0
    world.advance(int(LEASE_S * 500))  # the lease is over; from here the bucket may fill
    world.valkey.call("other", [KEY], [1_000_000, 1000, 0, 0, 0, 0, 0, 1])
    world.advance(held + 1)
    assert talk(world, two, [1000]) == 1000


def test_held_tokens_are_void_when_valkey_was_not_heard_for_long():
    world = World(1000.0, 1000, 1)
    process = world.processes[0]
    talk(world, process, [1])
    n = process.lease.held
    world.advance(int(LEASE_S * 900) + 1)
    assert process.lease.take(n, world.now) > 0.0
    assert process.lease.left(world.now) == 1000
    assert process.lease.ask(world.now).hold == 0


def test_what_is_spent_while_a_call_is_under_way_is_not_held_again():
    world = World(1000.0, 1000, 1)
    process = world.processes[0]
    talk(world, process, [1])
    world.send(process, [])
    process.lease.take(5, world.now)
    world.arrive(process)
    assert process.answer is not None
    held = process.answer[0]
    world.hear(process)
    assert process.lease.held == held - 5


def test_the_share_starts_empty_and_grows_by_rate_over_processes():
    world = World(8.0, 16, 4)
    lease = world.processes[0].lease
    lease.go_local(world.now)
    assert lease.take(1, world.now) == pytest.approx(0.5, abs=1e-3)
    world.advance(500)
    assert lease.take(1, world.now) == 0.0
    world.advance(10_000)
    assert lease.left(world.now) == 4
    assert [lease.take(1, world.now) for _ in range(4)] == [0.0] * 4
    assert lease.take(1, world.now) > 0.0


def test_what_is_larger_than_the_share_is_saved_up_for_and_not_more():
    world = World(8.0, 16, 4)
    lease = world.processes[0].lease
    lease.go_local(world.now)
    wait_s = lease.take(12, world.now)
    assert wait_s == pytest.approx(6.0, abs=1e-3)
    world.advance(6001)
    assert lease.take(12, world.now) == 0.0
    world.advance(60_000)
    assert lease.left(world.now) == 4
    assert lease.take(17, world.now) == math.inf
    lease.take(12, world.now)  # who saves and does not come again …
    world.advance(60_000)
    lease.take(1, world.now)
    assert lease.left(world.now) <= 4  # … keeps nothing


def test_what_the_share_spent_is_paid_when_valkey_is_back():
    world = World(10.0, 40, 2)
    one, two = world.processes
    one.lease.go_local(world.now)
    world.advance(4000)
    assert one.lease.take(20, world.now) == 0.0
    one.lease.come_back()
    talk(world, one, [])
    assert talk(world, two, [21]) == 0
    assert talk(world, two, [20]) == 20


def test_the_reserve_is_left_to_otp():
    valkey = SharedBuckets()
    lease = Lease(KEY, 1.0, 80, reserve=10, live=2)
    now = valkey.now_us / 1e6
    for is_otp, n, out in ((False, 71, 0), (False, 70, 70), (False, 1, 0), (True, 10, 10)):
        ask = lease.ask(now, [n], is_otp=is_otp)
        [got, level] = valkey.call("p", [KEY], args_of(ask))
        assert got == out
        lease.told(ask, got, level / 1000, now, now)
        if got:
            assert lease.take(n, now) == 0.0


def test_a_clock_that_goes_back_stops_nothing():
    world = World(10.0, 20, 2)
    one, two = world.processes
    talk(world, one, [20])
    world.valkey.now_us -= 3_600_000_000
    talk(world, two, [])
    world.advance(1000)
    assert talk(world, two, [10]) == 10


def test_an_answer_that_was_lost_is_made_up_for_by_the_next_call():
    world = World(1000.0, 1000, 2)
    one = world.processes[0]
    world.send(one, [50])
    world.arrive(one)
    one.ask = one.answer = None  # the answer is lost
    assert talk(world, one, [50]) == 50
    assert one.lease.held + world.valkey.left(KEY) == 950


def test_a_new_rate_keeps_what_is_in_the_bucket():
    world = World(1000.0, 1000, 2)
    one, two = world.processes
    talk(world, one, [900])
    for process in (one, two):
        process.lease.configure(1.0, 50, world.now)
    talk(world, one, [])
    assert talk(world, two, [50]) == 50
    assert talk(world, two, [1]) == 0
