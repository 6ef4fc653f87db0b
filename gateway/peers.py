"""This process among the others: sessions, registry, handovers, takeovers, joined to one flow.

Valkey ─wake─▶ Sessions │ HandoverDesk          both poll anyway
Sessions ─held─▶ sync_channels     ─registry─▶ RemoteChannels ◀─pump─ Dispatcher
CommandDesk ─cancel, pause─▶ Withdrawals (also another process's commands)
HandoverDesk ─taken─▶ Dispatcher   Takeover ─handovers─▶ HandoverDesk
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass

from cluster.wake import Wakes
from gateway.commands import CommandDesk
from gateway.flow import Flow
from gateway.handover import TAKEN, HandoverDesk
from gateway.remote import ANY, BLOCK, HANDOVER, RemoteChannels
from gateway.sessions import CHANNELS, Sessions
from gateway.takeover import Takeover
from sms.errors import Unavailable
from sms.model import Message, MessageClass, State
from store.processes import LiveProcess

TAKEOVER_EVERY_S = 1.0
ROLES = ("all", "api", "carrier")
_WAITING = frozenset({State.ACCEPTED, State.QUEUED})

Step = Callable[[], Awaitable[None]]
Every = Callable[[float, str, Step], Coroutine[None, None, None]]


@dataclass(slots=True)
class Peers:
    """The joined parts; made by `gateway.wiring`."""

    flow: Flow
    process: int
    remote: RemoteChannels
    sessions: Sessions
    desk: HandoverDesk
    takeover: Takeover
    commands: CommandDesk
    wakes: Wakes | None

    def loops(self, every: Every) -> list[Coroutine[None, None, None]]:
        """The long-lived loops; `every` runs a step again and again."""
        return [
            self.sessions.run(),
            self.desk.run(),
            self.commands.run(),
            every(TAKEOVER_EVERY_S, "takeover", self.takeover.step),
        ]

    def start(self) -> None:
        """Listen for wake-ups from now on."""
        if self.wakes is not None:
            self.wakes.start(self._woken)

    def _woken(self, what: str) -> None:
        if what == CHANNELS:
            self.sessions.kick()
        elif what in (HANDOVER, TAKEN):
            self.desk.kick()
        else:
            self.commands.woken(what)

    def inherited(self) -> None:
        """What a dead process gave, and what it was to do, is ours now."""
        self.desk.look_again()
        self.commands.look_again()

    async def leave(self) -> None:
        """We drain: nothing more is handed to us, nothing taken, nobody taken over."""
        self.desk.is_stopped = self.takeover.is_stopped = True
        with suppress(Unavailable):
            await self.sessions.leave()

    async def left(self) -> None:
        """Our sessions are closed: others may have them."""
        with suppress(Unavailable):
            await self.sessions.left()

    def hand_back(self) -> None:
        """Messages that never left: own ones lose their claim, others are handed over again.

        Called when nothing is accepted or sent any more, before the last flush. A claim that
        outlives us makes a message uncertain when another process takes over.
        """
        adopted: dict[tuple[int, MessageClass], list[Message]] = {}
        self.flow.dispatcher.withdraw()
        for message in self.flow.ledger.live.values():
            if not message.claim or message.is_handed or message.state not in _WAITING:
                continue
            if message.is_adopted:
                adopted.setdefault((message.channel, message.message_class), []).append(message)
            else:
                self.flow.ledger.release_claim(message)
        for (channel, _), messages in adopted.items():
            receivers = self.remote.receivers(channel)
            for start in range(0, len(messages), BLOCK):
                block = messages[start : start + BLOCK]
                if receivers:
                    self.remote.give(block, receivers[0], channel)
                else:  # nobody else has it: our next life, or who takes over, chooses
                    self.remote.give(block, self.process, ANY)

    def lived(self, live: list[LiveProcess]) -> None:
        """Who lives now."""
        for role in ROLES:
            count = sum(other.role == role for other in live)
            self.flow.metrics.processes.set((role,), count)
        self.flow.accepting = max(1, sum(other.role != "carrier" for other in live))

    async def close(self) -> None:
        """The end."""
        await self.commands.close()
        if self.wakes is not None:
            await self.wakes.close()
