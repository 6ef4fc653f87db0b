"""What a vendor owes its client, pushed until the client says that it has it.

owe ─▶ line per (URL, kind) ─▶ POST ─▶ heard: forgotten
                                   └─▶ anything else: first in line again, after a second
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from loadtest.vendors.shape import Brought, Kept, Ledger, Push, Shape

AGAIN_S = 1.0  # after a push that was not heard
TIMEOUT_S = 30.0
AT_ONCE = 16  # pushes on their way

Line = tuple[str, type]  # URL, and which kind of thing is pushed there


class Pusher:
    """Pushes receipts and texts; what nobody gave a URL for goes to the ledger, to be pulled."""

    def __init__(self, shape: Shape, callback_file: Path | None) -> None:
        """`callback_file`: holds the account's callback URL, `{kind}` in it."""
        self.counts: Counter[str] = Counter()
        self.ledger = Ledger()
        self.is_up = True
        self._shape = shape
        self._file = callback_file
        self._lines: dict[Line, deque[Kept | Brought]] = {}
        self._wake = asyncio.Event()

    def waiting(self) -> int:
        """Receipts and texts that are not heard and not on their way."""
        return sum(map(len, self._lines.values()))

    def owe(self, url: str, told: Sequence[Kept | Brought]) -> None:
        """Push these, all of one kind; `url` "" = where the account says."""
        if not told:
            return
        kind = type(told[0])
        where = url or self._account_url("inbound" if kind is Brought else "receipts")
        if where:
            self._lines.setdefault((where, kind), deque()).extend(told)
            self._wake.set()
            return
        for one in told:
            if isinstance(one, Brought):
                self.ledger.texts.append(one)
            else:
                self.ledger.receipts.append(one)

    def _account_url(self, kind: str) -> str:
        if self._file is None or not self._file.exists():
            return ""
        return self._file.read_text("utf-8").strip().replace("{kind}", kind)

    async def run(self) -> None:
        """Push what is owed, until cancelled."""
        # A gateway under test may show a certificate of its own making.
        connector = aiohttp.TCPConnector(limit=AT_ONCE, ssl=False)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(AT_ONCE):
                group.create_task(self._work(session))

    async def _work(self, session: aiohttp.ClientSession) -> None:
        while True:
            line = next((line for line, owed in self._lines.items() if owed), None)
            if line is None or not self.is_up:
                self._wake.clear()
                await self._wake.wait()
                continue
            owed = self._lines[line]
            most = self._shape.push_most if line[1] is Kept else 1
            some = [owed.popleft() for _ in range(min(most, len(owed)))]
            self.counts["reports_sent"] += len(some)
            try:
                is_heard = await self._push(session, self._built(line[0], some))
            except (aiohttp.ClientError, TimeoutError, OSError):
                is_heard = False
            if is_heard:
                self.counts["reports_answered"] += len(some)
                continue
            self.counts["reports_again"] += len(some)
            await asyncio.sleep(AGAIN_S)
            owed.extendleft(reversed(some))

    def _built(self, url: str, some: Sequence[Kept | Brought]) -> Push:
        first = some[0]
        if isinstance(first, Brought):
            return self._shape.inbound(first, url)
        return self._shape.receipts([one for one in some if isinstance(one, Kept)], url)

    async def _push(self, session: aiohttp.ClientSession, push: Push) -> bool:
        headers = {"Content-Type": push.content_type, **dict(push.headers)}
        async with session.post(
            push.url, data=push.body, headers=headers, allow_redirects=False
        ) as answer:
            return self._shape.is_heard(answer.status, await answer.read())

    def set_up(self, *, is_up: bool) -> None:
        """While it is down nothing new leaves."""
        self.is_up = is_up
        if is_up:
            self._wake.set()
