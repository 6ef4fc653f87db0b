"""How the parts of a worker are joined, where that can be seen without a store."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from gateway import wiring
from sms import config
from sms.errors import ConfigError


def test_a_channel_that_this_version_refuses_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its settings were stored by an older version, whose checks let them pass."""

    def refuse(*_: object) -> Any:
        raise ConfigError("url: give an https:// address")

    old, good = MagicMock(build=refuse), MagicMock()
    monkeypatch.setattr(wiring, "PROTOCOLS", {"old": old, "good": good})
    monkeypatch.setattr(wiring, "ChannelRuntime", MagicMock())
    monkeypatch.setattr(wiring, "_bucket", MagicMock())
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
