"""What is known of a channel's health, and which change of it ends that."""

from __future__ import annotations

from dataclasses import replace

from failover.health import HealthPolicy
from gateway.watching import Watches
from sms.config import AdminState, Channel


def test_a_changed_account_is_judged_anew_and_a_pause_changes_nothing() -> None:
    """What `docs/channels.md` tells an operator whose channel stays left."""
    watches = Watches(HealthPolicy(), lambda: 1000.0)
    channel = Channel(1, "mobile-a", "smpp", {"host": "h"})
    watch = watches.of(channel)
    assert watches.of(replace(channel, admin_state=AdminState.PAUSED)) is watch
    assert watches.of(replace(channel, sessions=3)) is watch
    other = watches.of(replace(channel, window=17))
    assert other is not watch
    assert watches.of(replace(channel, window=17, settings={"host": "i"})) is not other
