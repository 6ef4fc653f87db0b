"""A process without a lease writes nothing more to a carrier, and one that stood still asks."""

from __future__ import annotations

from typing import Any

from gateway.guard import FROZEN_S, LeaseGuard


class FakeChannel:
    def __init__(self) -> None:
        self.cuts = 0

    def cut_unwritten(self) -> None:
        self.cuts += 1


class Scene:
    def __init__(self) -> None:
        self.now = 100.0
        self.is_valid = True
        self.asked = 0
        self.channel = FakeChannel()
        channels: Any = [self.channel]
        self.guard = LeaseGuard(
            lambda: self.is_valid, lambda: channels, self._ask, clock=lambda: self.now
        )

    def _ask(self) -> None:
        self.asked += 1

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.guard.look()


def test_while_the_lease_holds_nothing_is_cut() -> None:
    scene = Scene()
    scene.after(0.1)
    assert (scene.channel.cuts, scene.asked) == (0, 0)


def test_without_a_lease_what_a_socket_did_not_take_is_cut() -> None:
    scene = Scene()
    scene.is_valid = False
    scene.after(0.1)
    assert (scene.channel.cuts, scene.asked) == (1, 0)


def test_who_stood_still_has_its_lease_renewed_at_once() -> None:
    scene = Scene()
    scene.after(FROZEN_S + 0.1)
    assert scene.asked == 1
    scene.after(0.1)
    assert scene.asked == 1
