"""A client of PyPI aiosmpplib as a process of its own: it leaves sockets to the collector.

    python -m tests.support.aiosmpplib_client PORT SYSTEM_ID PASSWORD SENDER TO TEXT…

Submits the texts, waits for as many receipts, prints what it was told as one line of JSON.
"""

import asyncio
import json
import sys
from typing import Any

from aiosmpplib import (
    ESME,
    AbstractHook,
    DeliverSm,
    PhoneNumber,
    SubmitSm,
    SubmitSmResp,
)
from aiosmpplib.broker import SimpleBroker


class Heard(AbstractHook):  # type: ignore[misc]  # it has no types
    """What it was told."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.receipts: list[Any] = []

    async def sending(self, smpp_message: Any, pdu: bytes, client_id: str) -> None:
        return None

    async def received(self, smpp_message: Any, pdu: bytes, client_id: str) -> None:
        if type(smpp_message) is SubmitSmResp:
            self.taken.append(smpp_message.message_id)
        elif type(smpp_message) is DeliverSm and smpp_message.is_receipt():
            self.receipts.append(smpp_message.parse_receipt())

    async def send_error(self, smpp_message: Any, error: Exception, client_id: str) -> None:
        raise error


async def run(port: int, login: tuple[str, str], sender: str, to: str, *texts: str) -> Heard:
    heard, broker = Heard(), SimpleBroker()
    esme = ESME("127.0.0.1", port, *login, hook=heard, broker=broker, log_level="CRITICAL")
    running = asyncio.create_task(esme.start())
    for text in texts:
        submit = SubmitSm(
            short_message=text,
            source=PhoneNumber(sender),
            destination=PhoneNumber(to),
            registered_delivery=1,
            encoding="gsm0338" if text.isascii() else "ucs2",
            log_id=text,
        )
        await broker.enqueue(submit)
    async with asyncio.timeout(10):
        while len(heard.receipts) < len(texts):  # noqa: ASYNC110 – it has no event for this
            await asyncio.sleep(0.01)
    await asyncio.wait_for(esme.stop(), 10)
    await asyncio.wait_for(running, 10)
    return heard


if __name__ == "__main__":
    _, port, system_id, password, sender, to, *texts = sys.argv
    found = asyncio.run(run(int(port), (system_id, password), sender, to, *texts))
    told = {"taken": found.taken, "receipts": [[r["id"], r["stat"]] for r in found.receipts]}
    print(json.dumps(told))
