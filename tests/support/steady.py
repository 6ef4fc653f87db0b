"""A steady load of single sends from a thread: what a backend does while its gateway is restarted.

    with SteadyLoad(gateway) as load:
        …
    assert load.errors == []

Some clients keep their connection open, as a backend with a pool does; some open one for each
request, as a script does; some keep one open and rarely use it. Nothing is ever sent twice.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

from receipts.state import fold
from sms.ids import from_text
from sms.model import State
from store import database
from store.read import Reader
from store.seal import Keyring, read_master_key
from tests.support.gateway_process import GatewayProcess

KEEPING, FRESH, RARE = 10, 4, 6  # clients of each kind
PAUSE_S = 0.08  # of a client between two requests
RARE_PAUSE_S = 1.5
ANSWER_S = 20.0

_numbers = itertools.count(40_000_000)


@dataclass
class SteadyLoad:
    """What was sent and what came of it; read it when the load has ended."""

    gateway: GatewayProcess
    accepted: dict[str, str] = field(default_factory=dict)  # message id to number, with its 202
    errors: list[str] = field(default_factory=list)  # whatever a client would call one
    slowest_s: float = 0.0
    refused: int = 0  # connections refused, where a client may simply try again
    retries_refused: bool = False  # and does
    asked: int = 0

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; what is under way is awaited."""
        self._stop.set()
        self._thread.join(ANSWER_S + 5)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._clients(KEEPING, PAUSE_S))
            group.create_task(self._clients(FRESH, PAUSE_S, force_close=True))
            group.create_task(self._clients(RARE, RARE_PAUSE_S, keepalive_timeout=60))

    async def _clients(self, count: int, pause_s: float, **connector: Any) -> None:
        headers = {"Authorization": f"Bearer {self.gateway.sandbox['api_key']}"}
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        for_all = aiohttp.TCPConnector(limit=0, **connector)
        async with (
            aiohttp.ClientSession(
                self.gateway.url, headers=headers, timeout=timeout, connector=for_all
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for place in range(count):
                group.create_task(self._one(client, pause_s, place * pause_s / count))

    async def _one(self, client: aiohttp.ClientSession, pause_s: float, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        while not self._stop.is_set():
            await self._send(client)
            await asyncio.sleep(pause_s)

    async def _send(self, client: aiohttp.ClientSession) -> None:
        number = f"+86138{next(_numbers):08d}"
        began = time.monotonic()
        self.asked += 1
        try:
            async with client.post("/v1/messages", json={"to": number, "text": "在"}) as answer:
                told = await answer.json(content_type=None)
                if answer.status == 202:
                    self.accepted[told["id"]] = number
                else:
                    self.errors.append(f"{answer.status} {told.get('code')}")
        except aiohttp.ClientConnectorError as error:
            self.refused += 1
            if not self.retries_refused:
                self.errors.append(repr(error))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self.errors.append(repr(error))
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)


def read_states(gateway: GatewayProcess, message_ids: Sequence[str]) -> dict[str, State]:
    """Where the messages stand, by their rows: quicker than asking for each."""
    return asyncio.run(_read_states(gateway, message_ids))


async def _read_states(gateway: GatewayProcess, message_ids: Sequence[str]) -> dict[str, State]:
    keyring = Keyring(read_master_key(gateway.data_dir / "master.key"))
    found: dict[str, State] = {}
    pool = await database.open_pool(gateway.dsn)
    try:
        reader = Reader(pool, keyring)
        for start in range(0, len(message_ids), 1000):
            texts = message_ids[start : start + 1000]
            page = {from_text("msg", text) or 0: text for text in texts}
            for number, stored in (await reader.messages(list(page))).items():
                fold(stored.message, stored.rows)
                found[page[number]] = stored.message.state
    finally:
        await pool.close()
    return found
