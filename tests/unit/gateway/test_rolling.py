"""A rolling restart by a clock that moves by hand: one at a time, and the next only when safe."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.rolling import Order, Phase, Rolling, Seen

UP = Seen(1, is_running=True, is_serving=True, is_ready=True)
DRAIN_S, READY_S = 31.0, 60.0


@dataclass
class Node:
    """Workers that do what they are told, a step later."""

    count: int = 2
    now: float = 100.0

    def __post_init__(self):
        self.workers = [UP] * self.count
        self.rolling = Rolling([f"worker-{n}" for n in range(self.count)], DRAIN_S, READY_S)

    def step(self, seconds=0.1):
        self.now += seconds
        return self.rolling.step(self.now, self.workers)

    def set(self, slot, **changes):
        self.workers[slot] = replace(self.workers[slot], **changes)

    def end_and_start(self, slot, *, is_ready=True, is_serving=True):
        """It has ended, and the next one was started."""
        starts = self.workers[slot].starts + 1
        self.set(slot, starts=starts, is_ready=is_ready, is_serving=is_serving, is_running=True)


def test_nothing_is_done_unasked():
    node = Node()
    assert [node.step(60.0) for _ in range(10)] == [[]] * 10
    assert not node.rolling.is_running


def test_one_after_another_and_the_next_only_when_the_new_one_is_ready():
    node = Node()
    assert node.rolling.ask() == 1
    assert node.step() == [(0, Order.DRAIN)]
    assert node.step(5.0) == []  # drains
    node.end_and_start(0, is_ready=False, is_serving=False)
    assert node.step() == []
    assert node.step(10.0) == []  # starts
    node.set(0, is_serving=True)
    assert node.step(10.0) == []  # serves, but is not ready as the node was
    node.set(0, is_ready=True)
    assert node.step() == []
    assert node.step() == [(1, Order.DRAIN)]
    node.end_and_start(1)
    node.step()
    node.step()
    assert node.rolling.finished == 1
    assert not node.rolling.is_running
    [ended] = node.rolling.kept
    assert ended.error == ""
    assert [step.worker for step in ended.steps] == ["worker-0", "worker-1"]
    assert ended.steps[0].drain_s > 5.0
    assert ended.steps[0].start_s > 20.0


def test_who_does_not_drain_in_time_is_killed_once():
    node = Node(count=1)
    node.rolling.ask()
    node.step()
    assert node.step(DRAIN_S - 1) == []
    assert node.step(2.0) == [(0, Order.KILL)]
    assert node.step(5.0) == []
    node.end_and_start(0)
    node.step()
    node.step()
    assert node.rolling.kept[0].steps[0].is_killed


def test_when_the_new_one_does_not_get_ready_the_others_stay_as_they_are():
    node = Node()
    node.rolling.ask()
    node.step()
    node.end_and_start(0, is_ready=False)
    node.set(0, missing=("route 1: no channel",))
    node.step()
    orders = [order for _ in range(700) for order in node.step()]
    assert orders == []
    [ended] = node.rolling.kept
    assert "worker-0" in ended.error
    assert "route 1: no channel" in ended.error
    assert ended.steps == []
    assert node.rolling.finished == 1


def test_a_worker_that_keeps_dying_after_its_start_stops_the_round_too():
    node = Node()
    node.rolling.ask()
    node.step()
    for _ in range(700):
        node.end_and_start(0, is_ready=False, is_serving=False)
        assert node.step() == []
    assert "it does not answer" in node.rolling.kept[0].error


def test_a_node_that_was_not_ready_need_not_become_so():
    """All carriers may be down: that is no reason to keep old workers."""
    node = Node()
    for slot in range(2):
        node.set(slot, is_ready=False, missing=("route 1: no channel",))
    node.rolling.ask()
    assert node.step() == [(0, Order.DRAIN)]
    node.end_and_start(0, is_ready=False)
    node.step()
    node.step()
    assert node.step() == [(1, Order.DRAIN)]
    node.end_and_start(1, is_ready=False)
    node.step()
    node.step()
    [ended] = node.rolling.kept
    assert ended.error == ""
    assert ended.steps[0].missing == ("route 1: no channel",)


def test_the_only_worker_that_is_ready_never_goes():
    node = Node()
    node.rolling.ask()
    node.step()
    node.end_and_start(0)
    node.step()
    node.step()
    node.set(0, is_ready=False, is_serving=False)  # and it dies again at once
    assert [order for _ in range(500) for order in node.step()] == []
    node.set(0, is_ready=True)
    assert node.step() == [(1, Order.DRAIN)]


def test_it_waits_for_another_one_only_so_long():
    node = Node()
    node.set(1, is_ready=False)
    node.rolling.ask()
    assert [order for _ in range(700) for order in node.step()] == []
    assert "no other worker is ready" in node.rolling.kept[0].error


def test_a_worker_that_is_down_is_waited_for_before_a_good_one_goes():
    node = Node()
    node.set(0, is_running=False, is_ready=False, is_serving=False)
    node.rolling.ask()
    assert node.step() == []
    assert node.step(10.0) == []
    node.end_and_start(0)
    node.step()
    assert node.step() == [(1, Order.DRAIN)]


def test_asked_while_one_runs_there_is_one_more_round_for_all_who_asked():
    node = Node(count=1)
    assert node.rolling.ask() == 1
    assert node.rolling.ask() == 1  # it has not begun
    node.step()
    assert node.rolling.ask() == 2
    assert node.rolling.ask() == 2
    node.end_and_start(0)
    node.step()
    node.step()
    assert node.rolling.finished == 1
    assert node.step() == [(0, Order.DRAIN)]
    node.end_and_start(0)
    node.step()
    node.step()
    assert node.rolling.finished == 2
    assert not node.rolling.is_running


def test_what_is_told_names_worker_and_phase():
    node = Node()
    assert node.rolling.told(node.now)["running"] is None
    node.rolling.ask()
    node.step()
    running = node.rolling.told(node.now + 1.0)["running"]
    assert isinstance(running, dict)
    assert (running["worker"], running["phase"]) == ("worker-0", Phase.DRAINING)
    assert running["seconds"] == 1.0


@given(
    count=st.integers(1, 5),
    events=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["die", "ready", "wait"]))),
)
def test_never_are_two_told_to_go_and_never_the_last_one_that_is_ready(count, events):
    """Whatever dies meanwhile: somebody else is ready when one that is ready is drained."""
    node = Node(count)
    node.rolling.ask()
    for slot, what in events:
        for told, order in node.step(1.0):
            others = [seen for other, seen in enumerate(node.workers) if other != told]
            assert order is Order.DRAIN
            assert count == 1 or not node.workers[told].is_ready or any(o.is_ready for o in others)
            if what != "wait":
                node.end_and_start(told, is_ready=False)
        if slot < count and what == "die":
            node.end_and_start(slot, is_ready=False, is_serving=False)
        elif slot < count and what == "ready":
            node.set(slot, is_ready=True, is_serving=True)
