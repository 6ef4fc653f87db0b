"""A disk fills up under traffic: it is told early, sends are refused, and at its end nothing dies.

The file system is a real one, mounted in namespaces of the test's own, and ends in ENOSPC.
"""

import asyncio
import itertools
import threading
import time
from collections import Counter

import asyncpg
import httpx
import pytest

from tests.support.gateway_process import GatewayProcess, Json, eventually
from tests.support.small_disk import SmallDisk, can_mount

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(not can_mount(), reason="no file system can be mounted in namespaces here"),
]

NETWORKS = ("139", "186", "189", "192")
PAUSE_S = 0.02  # between two texts
OURS = ("supervisor", "worker-0", "valkey")  # what a full disk must not end


class Sender(threading.Thread):
    """Sends text after text, each to a number of its own, and remembers every answer."""

    def __init__(self, gateway: GatewayProcess) -> None:
        super().__init__()
        self._gateway = gateway
        self._stopping = threading.Event()
        self.numbers: dict[str, str] = {}  # message id to the number, of what got a 202
        self.answers: list[tuple[int, str, str]] = []  # status, code, Retry-After

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._gateway.sandbox['api_key']}"}
        with httpx.Client(timeout=15, trust_env=False, headers=headers) as client:
            for n in itertools.count():
                if self._stopping.wait(PAUSE_S):
                    return
                number = f"86{NETWORKS[n % 4]}{n:08d}"
                body = {"to": f"+{number}", "text": f"第{n}号", "class": "transactional"}
                answer = client.post(f"{self._gateway.url}/v1/messages", json=body)
                told = answer.json()
                if answer.status_code == 202:
                    self.numbers[told["id"]] = number
                retry = answer.headers.get("Retry-After", "")
                self.answers.append((answer.status_code, told.get("code", ""), retry))

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        self.join()

    def gets(self, status: int, code: str = "") -> str:
        """Until a text sent from now on is answered so; its Retry-After."""
        start = len(self.answers) + 1  # one may be on its way

        def look() -> list[str]:
            return [one[2] for one in self.answers[start:] if one[:2] == (status, code)]

        return eventually(look, f"a text is answered {status} {code}")[0]


def readiness(gateway: GatewayProcess) -> tuple[int, Json]:
    """What /readyz says."""
    answer = gateway.client.get(f"{gateway.admin_url}/readyz")
    return answer.status_code, answer.json()


def delivered_once(gateway: GatewayProcess, numbers: dict[str, str]) -> None:
    """All that got a 202 is delivered, and no carrier has any of it twice."""
    left = set(numbers)

    def look() -> bool:
        left.difference_update(
            [one for one in left if gateway.status(one)["status"] == "delivered"]
        )
        return not left

    eventually(look, "everything accepted is delivered", step_s=0.5)
    taken = Counter(row["to"] for carrier in gateway.carriers.values() for row in carrier.submits())
    assert {number: taken[number] for number in numbers.values()} == dict.fromkeys(
        numbers.values(), 1
    )
    assert taken.keys() == set(numbers.values())  # and nothing that was refused


async def write_log(dsn: str) -> None:
    """Have PostgreSQL want a new file for its write-ahead log."""
    conn = await asyncpg.connect(dsn)
    for _ in range(40):
        await conn.execute("SELECT pg_logical_emit_message(false, 'disk', repeat('x', 1000000))")


def test_a_full_disk_is_told_early_refuses_sends_and_loses_nothing() -> None:
    with SmallDisk(256 << 20) as gateway:
        sender = Sender(gateway)
        sender.start()
        try:
            sender.gets(202)
            gateway.fill(0.9)
            eventually(lambda: gateway.metric("disk_used_ratio") > 0.85, "the metric shows it")
            sender.gets(202)
            assert readiness(gateway) == (200, {"status": "ready", "missing": []})

            for carrier in gateway.carriers.values():
                carrier.behave(receipt_delay_ms=2000)
            sender.gets(202)
            gateway.fill(0.96)
            assert sender.gets(503, "shed.storage_full") == "60"
            last = list(sender.numbers)[-1]
            gateway.wait_for_status(last, "delivered")  # receipts, reads and status go on
            status, told = readiness(gateway)
            assert status == 200
            assert told["degraded"] == [
                "storage: the disk of SMSGW_DATA_DIR is 96% full, sends are refused"
            ]

            before = gateway.pids()
            gateway.free()
            sender.gets(202)
            gateway.fill(1)  # within a moment: some are on their way
            with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
                asyncio.run(write_log(gateway.dsn))
            eventually(lambda: readiness(gateway)[0] == 503, "it is not ready")
            missing = readiness(gateway)[1]["missing"]
            assert any("PostgreSQL is not writable" in word for word in missing)
            assert any("100% full" in word for word in missing)
            time.sleep(2)  # PostgreSQL is started again and again
            assert "No space left" in gateway.logs()
            accepted = len(sender.numbers)

            gateway.free()
            gateway.wait_ready()
            sender.gets(202)
            after = gateway.pids()
            assert {name: after[name] for name in OURS} == {name: before[name] for name in OURS}
            assert after["postgres"] != before["postgres"]
            assert len(sender.numbers) > accepted
        finally:
            sender.stop()
        assert {one[0] for one in sender.answers} == {202, 503}
        delivered_once(gateway, sender.numbers)
        assert gateway.metric("duplicate_copies_total") == 0


def test_nothing_is_submitted_while_the_journal_cannot_be_written() -> None:
    """The database has room; the journal's disk has none, and intake is kept open on purpose."""
    with SmallDisk(1 << 20, "journal", shed_storage_share="1") as gateway:
        first = gateway.accept(to="+8613900000001", text="前", **{"class": "transactional"})
        gateway.wait_for_status(first, "delivered")
        gateway.fill(1)
        numbers = [f"86{NETWORKS[n % 4]}{n:08d}" for n in range(2, 402)]
        ids = [
            gateway.accept(to=f"+{number}", text="后", **{"class": "transactional"})
            for number in numbers
        ]
        eventually(lambda: gateway.metric("journal_failures_total"), "the journal fails")
        sent = len(gateway.submits_of(*numbers))
        time.sleep(1)
        assert len(gateway.submits_of(*numbers)) == sent < len(numbers)
        assert any("100% full" in word for word in readiness(gateway)[1]["degraded"])
        segments = list((gateway.disk / "0000").glob("*-*"))
        assert len(segments) <= 2  # no file for every try
        gateway.free()
        delivered_once(gateway, dict(zip([first, *ids], ["8613900000001", *numbers], strict=True)))
        assert gateway.metric("duplicate_copies_total") == 0
