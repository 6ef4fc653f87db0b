"""How the sessions of a channel are shared out over the workers of a node."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import sessions as sessions_module
from gateway.remote import RemoteChannels
from gateway.sessions import SETTLE_S, Place, Sessions, share_of
from sms import config
from sms.errors import StoreUnavailable
from store.processes import LiveProcess
from store.sessions import ChannelUp
from tests.support.flow_kit import Kit

ME, OTHER, FAR = 1, 2, 3


def channel(number: int = 1, sessions: int = 1) -> config.Channel:
    return config.Channel(number, f"c{number}", "smpp", {}, sessions=sessions)


@given(st.integers(1, 40), st.integers(1, 64), st.integers(1, 500))
def test_the_shares_are_all_sessions_and_nobody_may_hold_more_than_one_above(
    count: int, workers: int, number: int
) -> None:
    shares = [share_of(channel(number, count), slot, workers) for slot in range(workers)]
    assert sum(share for share, _ in shares) == count
    most = -(-count // workers)
    assert all(share in (most - 1, most) and bound == most for share, bound in shares)


@given(st.integers(2, 16))
def test_single_sessions_are_spread_over_the_workers(workers: int) -> None:
    holders = [
        slot
        for number in range(1, workers + 1)
        for slot in range(workers)
        if share_of(channel(number, 1), slot, workers)[0]
    ]
    assert sorted(holders) == list(range(workers))


class World:
    """The tables of `store.sessions`, by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, slot: int = 0, **place: Any) -> None:
        self.holders: dict[int, dict[int, int]] = {}
        self.up: list[ChannelUp] = []
        self.published: list[list[tuple[int, int, bool]]] = []
        self.woken: list[int] = []
        self.is_away = False
        self.changes = 0
        for name in ("held_sessions", "hold_sessions", "publish_channels", "channels_up"):
            monkeypatch.setattr(sessions_module, name, getattr(self, f"_{name}"))
        monkeypatch.setattr(sessions_module, "live_processes", self._live)
        self.kit = Kit(channels=2)
        self.remote = RemoteChannels(
            ids=self.kit.ids,
            lanes=self.kit.lanes,
            ledger=self.kit.ledger,
            metrics=self.kit.metrics,
            unix=self.kit.clock.unix,
        )
        self.kit.dispatcher.remote = self.remote
        settings: dict[str, Any] = {"workers": 2, "role": "all", **place}
        pool: Any = None
        self.is_valid = True
        self.sessions = Sessions(
            pool,
            Place("here", slot, settings["workers"], ME, 7, settings["role"]),
            dispatcher=self.kit.dispatcher,
            remote=self.remote,
            is_valid=lambda: self.is_valid,
            monotonic=self.kit.clock.monotonic,
        )
        self.sessions.wake_other = lambda process, what: self.woken.append(process)

    async def _held_sessions(self, pool: object, node: str) -> dict[int, dict[int, int]]:
        return self.holders

    async def _hold_sessions(
        self, pool: object, node: str, number: int, *, want: int, total: int, **who: int
    ) -> int:
        own = self.holders.setdefault(number, {})
        others = sum(count for process, count in own.items() if process != who["process"])
        own[who["process"]] = min(want, total - others)
        return own[who["process"]]

    async def _publish_channels(
        self, pool: object, process: int, rows: list[tuple[int, int, bool]]
    ) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
        self.published.append(rows)

    async def _channels_up(self, pool: object) -> list[ChannelUp]:
        return self.up

    async def _live(self, pool: object) -> list[LiveProcess]:
        return [LiveProcess(process, "here", process, "all", 1) for process in (ME, OTHER)]

    async def held(self, *channels: config.Channel) -> dict[int, int]:
        await self.sessions.share({known.id: known for known in channels})
        return self.sessions.held


async def test_each_worker_takes_its_share_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for slot in (0, 1):
        world = World(monkeypatch, slot=slot)
        assert (await world.held(channel(1, 4)))[1] == 2


async def test_an_only_session_is_taken_by_the_worker_whose_turn_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await World(monkeypatch, slot=1).held(channel(1)) == {1: 1}
    assert await World(monkeypatch, slot=0).held(channel(1)) == {}


async def test_what_its_holder_leaves_free_is_taken_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, slot=0)
    assert await world.held(channel(1)) == {}
    world.kit.clock.now += SETTLE_S / 2
    assert await world.held(channel(1)) == {}
    world.kit.clock.now += SETTLE_S
    assert await world.held(channel(1)) == {1: 1}


async def test_a_short_gap_of_its_holder_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, slot=0)
    await world.held(channel(1))
    world.kit.clock.now += SETTLE_S * 0.9
    world.holders = {1: {OTHER: 1}}  # it is back
    assert await world.held(channel(1)) == {}
    world.holders = {}
    world.kit.clock.now += SETTLE_S * 0.9
    assert await world.held(channel(1)) == {}


async def test_sessions_lost_with_a_lease_that_lapsed_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, slot=1)
    assert await world.held(channel(1)) == {1: 1}
    world.holders = {1: {OTHER: 1}}
    assert await world.held(channel(1)) == {}


async def test_fewer_configured_sessions_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert await world.held(channel(1, 4)) == {1: 2}
    world.holders[1][OTHER] = 1
    assert await world.held(channel(1, 2)) == {1: 1}


async def test_the_only_worker_holds_all_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, workers=1)
    assert await world.held(channel(1, 3), channel(2)) == {1: 3, 2: 1}
    assert world.holders == {}


async def test_role_api_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await World(monkeypatch, workers=1, role="api").held(channel(1, 3)) == {}


async def test_without_a_lease_no_session_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, slot=1)
    world.is_valid = False
    for _ in range(4):
        await world.sessions.round()
    assert world.sessions.held == {}


async def test_the_others_are_woken_when_our_channels_change_and_not_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    world.sessions.live = await world._live(None)
    await world.sessions.publish()
    world.sessions.renewed()
    await world.sessions.round()
    assert world.published == [[(1, 1, True), (2, 1, True)]] * 2
    assert world.woken == [OTHER]
    world.kit.dispatcher.link_changed(1, is_up=False)
    world.sessions.link_changed()
    await world.sessions.round()
    assert world.published[-1] == [(1, 1, False), (2, 1, True)]
    assert world.woken == [OTHER, OTHER]


async def test_what_could_not_be_published_is_published_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    world.is_away = True
    with pytest.raises(StoreUnavailable):
        await world.sessions.round()
    world.is_away = False
    await world.sessions.round()
    assert len(world.published) == 1


async def test_the_picture_of_the_others_leaves_us_out_and_puts_our_node_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    world.up = [
        ChannelUp(ME, "here", 5),
        ChannelUp(FAR, "there", 6),
        ChannelUp(OTHER, "here", 6),
    ]
    await world.sessions.look()
    assert world.remote.receivers(5) == ()
    assert world.remote.receivers(6) == (OTHER, FAR)


async def test_the_rate_of_a_channel_is_shared_by_sessions_and_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    wide = channel(1, 4)
    await world.held(wide)
    assert world.sessions.rate_share(wide) == pytest.approx(0.5)
    told = []
    world.sessions.rates_changed = lambda: told.append(world.sessions.rate_share(wide))
    world.up = [ChannelUp(FAR, "there", 1), ChannelUp(4, "there", 1)]
    await world.sessions.look()
    assert told == [pytest.approx(0.25)]


async def test_who_leaves_tells_that_it_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    await world.sessions.leave()
    assert world.published == [[]]
