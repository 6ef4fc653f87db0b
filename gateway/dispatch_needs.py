"""What dispatch needs of claims and of other processes: seams that its tests fill with fakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sms import config


class Claimer(Protocol):
    """The claim book, as far as dispatch needs it."""

    def block(self, ids: list[int], on_claimed: Callable[[], None] | None) -> int:
        """Claim ids with the next flush; returns the block's number."""
        ...


class Remote(Protocol):
    """The channels of other processes, as far as dispatch needs them."""

    def is_up(self, channel: int) -> bool:
        """Whether another process has a session of the channel."""
        ...

    def pump(self, channel: int) -> None:
        """Hand over what waits in the channel's lane."""
        ...

    def configure(self, snapshot: config.Snapshot) -> None:
        """Use a new configuration."""
        ...
