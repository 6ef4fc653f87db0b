"""How the parts of a worker are joined, where that can be seen without a store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pytest

from failover.health import HealthPolicy
from gateway import wiring
from gateway.channel import ChannelRuntime
from gateway.watching import Watches
from sms import config
from sms.errors import ConfigError


def test_another_rate_keeps_a_channels_sessions_and_its_watch() -> None:
    channel = config.Channel(7, "c", "smpp", {}, segments_per_second=100.0)
    slower = replace(channel, segments_per_second=5.0)
    worker, adapter = MagicMock(), MagicMock()
    runtime = ChannelRuntime(channel, adapter, MagicMock())
    worker.flow.dispatcher.channels = {7: runtime}
    worker.peers.sessions.held = {7: 1}
    worker.peers.sessions.rate_share.return_value = 1.0
    for now in (slower, slower):
        wiring.sync_channels(worker, config.Snapshot(1, channels={7: now}), MagicMock())
    adapter.stop.assert_not_called()
    worker.flow.dispatcher.remove_channel.assert_not_called()
    [lease] = worker.leases.lease.call_args_list
    assert lease.args[:2] == ("c7", 5.0)
    assert runtime.throttle.limit == 5.0
    watches = Watches(HealthPolicy(), lambda: 0.0)
    assert watches.of(channel) is watches.of(slower)


def test_a_channel_that_this_version_refuses_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its settings were stored by an older version, whose checks let them pass."""

    def refuse(*_: object) -> Any:
        raise ConfigError("url: give an https:// address")

    old, good = MagicMock(build=refuse), MagicMock()
    monkeypatch.setattr(wiring, "PROTOCOLS", {"old": old, "good": good})
    monkeypatch.setattr(wiring, "ChannelRuntime", MagicMock())
    monkeypatch.setattr(wiring, "bucket_of", MagicMock())
    channels = {
        number: config.Channel(number, f"c{number}", protocol, {})
        for number, protocol in ((1, "old"), (2, "good"))
    }
    worker = MagicMock()
    worker.flow.dispatcher.channels = {}
    worker.peers.sessions.held = {1: 1, 2: 1}
    wiring.sync_channels(worker, config.Snapshot(1, channels=channels), MagicMock())
    assert good.build.return_value.start.call_count == 1
    assert worker.flow.dispatcher.add_channel.call_count == 1
