"""Old messages by the million: real rows, sealed and finished, loaded by COPY.

    growth ── plan (one JSON line, stdin) ─────────▶ fill ══COPY══▶ messages, events
           ◀─ progress, done (JSON lines, stdout) ──┘

What is made is what the gateway itself would have left: number and text sealed with the day's
key, the blind index, one `submitted` row with a carrier's id and one `delivered` row. The rows
come in order of time, as they would have, so the indexes look as they do in a store that lived.
Message `n` of a day has a number and a carrier's id that follow from day and `n`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.carrier import die_with_parent
from receipts.state import Path as StatePath
from sms.ids import COUNTER_BITS, DAY_MS, EPOCH_MS, TIME_SHIFT
from sms.model import Carrier, Encoding, EventRow, Message, MessageClass, State
from store import database
from store.copying import (
    COPY_EVENTS,
    COPY_MESSAGES,
    build_event,
    build_messages,
    copy_in,
    payload,
)
from store.seal import Keyring, Sealer, read_master_key

ROWS: Final = 20_000  # messages of one COPY
SMALL_TENANTS: Final = 999  # share one tenth of the messages
FIRST_SMALL: Final = 1_000_000  # their ids: tenants that are gone from the configuration
GROUP: Final = 10  # nine messages of the large tenant, one of a small one
CHANNELS: Final = (1, 2, 3, 4)
SUBMIT_MS, RECEIPT_MS = 15, 320  # after the accept
COPY_TIMEOUT_S: Final = 300.0
_TEXT: Final = "【沙箱】您的订单%08d已由快递发出，预计明天送达，请留意查收。"


@dataclass(frozen=True, slots=True)
class Day:
    """What to load into one day: `count` messages from its first millisecond to `until_ms`."""

    day: int  # counted as in store.seal.day_of
    count: int
    until_ms: int = DAY_MS


@dataclass(frozen=True, slots=True)
class Plan:
    """One loader's work; `process` owns the rows it makes, as their ids say."""

    dsn: str
    key_file: str
    tenant: int  # of nine messages in ten
    process: int
    days: Sequence[Day]


def id_of(day: Day, number: int, process: int) -> int:
    """The id of message `number` of a day; they ascend and are spread over its hours."""
    moment = day.day * DAY_MS + number * day.until_ms // day.count
    return moment << TIME_SHIFT | process << COUNTER_BITS | number & 0xFFF


def tenant_of(number: int, large: int) -> int:
    """Whose message `number` of a day is."""
    if number % GROUP:
        return large
    return FIRST_SMALL + number // GROUP % SMALL_TENANTS


def channel_of(number: int) -> int:
    """Which channel carried message `number` of a day."""
    return CHANNELS[number % len(CHANNELS)]


def carrier_id_of(day: Day, number: int) -> str:
    """The carrier's id: begins with the time, as most carriers' do."""
    seconds = EPOCH_MS // 1000 + (day.day * DAY_MS + number * day.until_ms // day.count) // 1000
    return f"{seconds:08x}0f11{number:08x}"


def digits_of(day: Day, number: int) -> str:
    """The number it went to."""
    mixed = (day.day * 7_654_321 + number * 2_654_435_761) % 100_000_000
    return f"86138{mixed:08d}"


class Maker:
    """Builds the rows of one day; a few objects are used again for all of them (6 µs a message)."""

    def __init__(self, plan: Plan, keyring: Keyring) -> None:
        self._plan = plan
        self._keyring = keyring
        self._messages = [
            Message(
                *(0, 0, MessageClass.TRANSACTIONAL, "", Carrier.CM, 86),
                *(Encoding.UCS2, ("",), 0.0, 0.0),
            )
            for _ in range(GROUP)
        ]
        self._submitted = EventRow(
            *(0, 2, 0, 0, StatePath.SUBMITTED, State.SUBMITTED, 0.0),
            segment=0,
            times=(1, SUBMIT_MS),
        )
        self._delivered = EventRow(
            *(0, 3, 0, 0, StatePath.DELIVERED, State.DELIVERED, 0.0),
            segment=0,
            code="DELIVRD 000",
        )

    def chunks(self, day: Day) -> Iterator[tuple[int, memoryview, memoryview]]:
        """(messages, COPY bytes of messages, of events), a chunk at a time."""
        for start in range(0, day.count, ROWS):
            stop = min(start + ROWS, day.count)
            rows: list[bytes] = []
            events: list[bytes] = []
            for first in range(start, stop, GROUP):
                self._group(day, range(first, min(first + GROUP, stop)), rows, events)
            yield stop - start, payload(rows), payload(events)

    def _group(self, day: Day, numbers: range, rows: list[bytes], events: list[bytes]) -> None:
        plan = self._plan
        messages = self._messages[: len(numbers)]
        for message, number in zip(messages, numbers, strict=True):
            message.id = id_of(day, number, plan.process)
            message.tenant = tenant_of(number, plan.tenant)
            message.number = digits_of(day, number)
            message.texts = (_TEXT % (number % 100_000_000),)
            message.created_at = (message.id >> TIME_SHIFT) / 1000 + EPOCH_MS / 1000
            message.valid_until = message.created_at + 36_000
            events += self._events(day, number, message)
        # Numbers begin with a multiple of GROUP, whose message is a small tenant's.
        for same in (messages[:1], messages[1:]):
            if same:
                sealer = self._sealer(same[0])
                rows.append(build_messages(same, sealer, self._keyring))

    def _sealer(self, message: Message) -> Sealer:
        sealer = self._keyring.sealer_for(message.tenant, message.id)
        if sealer is None:
            raise RuntimeError("the day has no keys: make its partitions first")
        return sealer

    def _events(self, day: Day, number: int, message: Message) -> tuple[bytes, bytes]:
        moment, process = message.id >> TIME_SHIFT, self._plan.process << COUNTER_BITS
        submitted, delivered = self._submitted, self._delivered
        for row, after_ms, odd in ((submitted, SUBMIT_MS, 0), (delivered, RECEIPT_MS, 1)):
            row.message_id = message.id
            row.tenant = message.tenant
            row.event_id = (moment + after_ms) << TIME_SHIFT | process | (2 * number + odd) & 0xFFF
            row.channel = channel_of(number)
            row.at = message.created_at + after_ms / 1000
        submitted.carrier_id = carrier_id_of(day, number)
        return build_event(submitted), build_event(delivered)


async def fill(plan: Plan, tell: Callable[[dict[str, Any]], None]) -> None:
    """Load all days of the plan; `tell` hears of every chunk."""
    conn = await database.connect(plan.dsn, statement_timeout_s=COPY_TIMEOUT_S)
    try:
        keyring = Keyring(read_master_key(Path(plan.key_file)))
        await keyring.load_days(conn, [day.day for day in plan.days])
        # Nobody owns these rows: the fence, a trigger, would refuse them. And a lost chunk of a
        # measurement's filling is no lost promise.
        await conn.execute("SET session_replication_role = replica; SET synchronous_commit = off")
        maker = Maker(plan, keyring)
        for day in plan.days:
            for count, messages, events in maker.chunks(day):
                await copy_in(conn, COPY_MESSAGES, messages, COPY_TIMEOUT_S)
                await copy_in(conn, COPY_EVENTS, events, COPY_TIMEOUT_S)
                tell({"event": "progress", "messages": count})
    finally:
        await database.close(conn)


def as_line(plan: Plan) -> bytes:
    """The plan as a loader reads it."""
    return json.dumps(asdict(plan)).encode() + b"\n"


def main() -> int:
    """The process: 0 when all is loaded."""

    def tell(fields: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()

    die_with_parent()
    told = json.loads(sys.stdin.readline())
    days = [Day(**day) for day in told.pop("days")]
    asyncio.run(fill(Plan(**told, days=days), tell))
    tell({"event": "done"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
