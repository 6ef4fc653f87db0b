"""The asyncio shell round a channel's pulls: receipts and texts that the vendor does not push.

What a pull brought the vendor considers told, so until it is durable it is kept here: it is handed
over again when the gateway could not take it, and nothing more is pulled meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapters.base import ChannelSink
from adapters.http.client import Client, Failed, Flight
from adapters.http.vendor import CallKind, Vendor
from sms.errors import RemoteProtocolError
from sms.model import Inbound, Report
from telemetry.logs import get_logger

log = get_logger(__name__)

ANSWER_S = 30.0  # for the answer to one pull
AGAIN_S = 5.0  # until what could not be kept is handed over again
REMIND_S = 60.0  # a failure that lasts is logged again this often


@dataclass(slots=True, eq=False)  # not frozen: one per report
class Pulled:
    """The token of what a pull brought."""

    item: Report | Inbound


class Puller:
    """Pulls for one channel, while it is up."""

    def __init__(
        self,
        vendor: Vendor,
        every_s: float,
        sink: ChannelSink,
        channel: tuple[int, str],
        may_ask: Callable[[], bool],
    ) -> None:
        """`channel` is its id and its name."""
        self._vendor = vendor
        self._every_s = every_s
        self._sink = sink
        self._id, self._name = channel
        self._may_ask = may_ask
        self._next = dict.fromkeys(CallKind, 0.0)  # when to pull, monotonic
        self._owed: set[Pulled] = set()
        self._again: list[Pulled] = []
        self._again_at = 0.0
        self._told_at = -REMIND_S
        self._client: Client | None = None
        self._tasks: dict[CallKind, asyncio.Task[None]] = {}

    def start(self, client: Client) -> None:
        """Pulls may be made from now on."""
        self._client = client

    async def stop(self) -> None:
        """Pull nothing any more."""
        self._client = None
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def is_settled(self) -> bool:
        """Whether nothing that was pulled waits to be kept."""
        return not self._owed

    def hand_over_again(self, now: float) -> None:
        """Once a second: what could not be kept."""
        if self._again and now >= self._again_at:
            again, self._again = self._again, []
            self._hand_over(again)

    def bring(self, items: Sequence[Report | Inbound]) -> None:
        """Hand over what the vendor told for once and all; it is kept until it is durable."""
        pulled = [Pulled(item) for item in items]
        self._owed.update(pulled)
        self._hand_over(pulled)

    def pull_due(self, now: float) -> None:
        """Once a second: pull what is due."""
        for kind, at in self._next.items():
            if at <= now:
                self._pull_soon(kind)

    def answer(self, tokens: Sequence[object], *, accepted: bool) -> None:
        """What became of what was handed over; tokens of pushes are passed over.

        What could not be kept comes again, too, when it was pulled before a change of the channel's
        configuration, by the one that stood here then: the vendor gives it once.
        """
        for token in tokens:
            if not isinstance(token, Pulled):
                continue
            if accepted:
                self._owed.discard(token)
            else:
                self._owed.add(token)
                self._again.append(token)
                self._again_at = time.monotonic() + AGAIN_S

    def _pull_soon(self, kind: CallKind) -> None:
        client = self._client
        if client is None or kind in self._tasks or self._owed or not self._may_ask():
            return
        task = asyncio.get_running_loop().create_task(self._pull(client, kind))
        self._tasks[kind] = task
        task.add_done_callback(lambda _: self._tasks.pop(kind))

    async def _pull(self, client: Client, kind: CallKind) -> None:
        self._next[kind] = time.monotonic() + self._every_s
        try:
            request = self._vendor.pull(kind, time.time(), secrets.token_hex(16))
            if request is None:
                self._next[kind] = float("inf")
                return
            async with asyncio.timeout(ANSWER_S):
                reply = await client.exchange(request, Flight(self._may_ask))
            if isinstance(reply, Failed):
                self._tell(reply.reason)
                return
            brought = self._vendor.pulled(kind, reply)
        except TimeoutError:
            self._tell("no answer in time")
            return
        except RemoteProtocolError as error:
            self._tell(str(error))
            return
        except Exception:
            log.exception("a pull from the vendor failed", channel=self._name)
            return
        if brought.reports or brought.texts:
            self._next[kind] = 0.0  # there may be more
            self.bring([*brought.reports, *brought.texts])

    def _hand_over(self, pulled: Sequence[Pulled]) -> None:
        reports: list[Report] = []
        texts: list[Inbound] = []
        for token in pulled:
            item = token.item
            item.token = token
            if isinstance(item, Report):
                reports.append(item)
            else:
                texts.append(item)
        if reports:
            self._sink.reports(self._id, reports)
        if texts:
            self._sink.inbound(self._id, texts)

    def _tell(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._told_at >= REMIND_S:
            self._told_at = now
            log.warning(
                "receipts and texts cannot be pulled; they wait at the vendor",
                channel=self._name,
                reason=reason,
            )
