"""Simulated carriers of other protocols beside a gateway's own, for flow tests."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.gateway_process import ROOT, CarrierControl, GatewayProcess, Json

LOGIN = "900001"
SECRET = "888888"


class MoreCarrier(CarrierControl):
    """One of them: its control port, and the fields of a channel to it."""

    def __init__(self, told: Json, login: Mapping[str, object], gateway: GatewayProcess) -> None:
        super().__init__(told["name"], told["control_url"], gateway.client)
        self.channel: Json = {
            "name": told["name"],
            "protocol": told["protocol"],
            "host": told["host"],
            "port": told["port"],
            **login,
            "sessions": 2,
            "window": 16,
            "segments_per_second": 1_000_000,
            "classes": ["otp", "transactional", "marketing"],
        }

    def of(self, *numbers: str, taken: bool = True) -> list[Json]:
        """What it recorded for these E.164 numbers, which it may know by their 11 digits."""
        wanted = {form for number in numbers for form in (number.lstrip("+"), number[-11:])}
        return [row for row in self.submits(taken=taken) if row["to"] in wanted]

    def calm(self, failure_status: int) -> None:
        """As it is at the start."""
        self.behave(
            latency_ms=5,
            receipt_delay_ms=300,
            failure_share=0,
            throttle_share=0,
            undelivered_share=0,
            report_quirk="none",
            failure_status=failure_status,
            silent=False,
            receipts=True,
            link="up",
        )


@contextlib.contextmanager
def more_carriers(
    gateway: GatewayProcess, folder: Path, logins: Mapping[str, Mapping[str, object]]
) -> Iterator[dict[str, MoreCarrier]]:
    """Start one carrier per protocol, each named for it; `logins` are the channels' settings."""
    processes: list[subprocess.Popen[bytes]] = []
    found: dict[str, MoreCarrier] = {}
    try:
        for protocol, login in logins.items():
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "loadtest.carrier", "--json", "--name", protocol),
                    *("--protocol", protocol, "--port", "0", "--control-port", "0"),
                    *("--system-id", LOGIN, "--password", SECRET),
                    *("--record", str(folder / f"{protocol}.jsonl")),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            processes.append(process)
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            found[protocol] = MoreCarrier(told, login, gateway)
        yield found
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()
