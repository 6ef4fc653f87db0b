"""The simulated carrier as its own process: sockets, control port, signals."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from adapters.session import SessionPolicy
from adapters.smpp.channel import SmppChannel
from sms import config
from sms.outcomes import Rejected, Submitted, Uncertain
from tests.support.certificates import Authority
from tests.support.smpp import FakeSink, some_submits

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


async def until(is_true):
    async with asyncio.timeout(60):
        while not is_true():  # noqa: ASYNC110 – any condition, at the door's outside
            await asyncio.sleep(0.005)


class Rig:
    """The process, its control port and a channel to it."""

    def __init__(self, process, told, http):
        self.process = process
        self.told = told
        self.http = http
        self.sink = FakeSink()
        self.channels = []

    async def channel(self, password="secret08", **own):
        settings = {
            "host": "127.0.0.1",
            "port": self.told["port"],
            "system_id": "shop",
            "password": password,
            **own,
        }
        channel = SmppChannel(
            config.Channel(7, "c", "smpp", settings, window=32),
            self.sink,
            SessionPolicy(reconnect_min_s=0.05, reconnect_max_s=0.1),
        )
        self.channels.append(channel)
        channel.start()
        return channel

    async def get(self, path):
        async with self.http.get(self.told["control_url"] + path) as response:
            return response.status, await response.json(content_type=None)

    async def behave(self, body):
        url = self.told["control_url"] + "/behaviour"
        async with self.http.post(url, json=body) as response:
            return response.status, await response.json(content_type=None)


async def start_carrier(tmp_path, *options):
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "loadtest.carrier", "--name", "carrier-a", "--port", "0", "--control-port", "0"),
        *("--record", str(tmp_path / "a.jsonl"), "--system-id", "shop"),
        *("--password", "secret08", "--latency-ms", "1", "--receipt-delay-ms", "5", "--json"),
        *options,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )


@contextlib.asynccontextmanager
async def a_rig(tmp_path, *options):
    process = await start_carrier(tmp_path, *options)
    told = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    async with aiohttp.ClientSession() as http:
        rig = Rig(process, told, http)
        yield rig
        for channel in rig.channels:
            await channel.stop(0.1)
    if process.returncode is None:
        process.terminate()
    await process.wait()


@pytest.fixture
async def rig(tmp_path):
    async with a_rig(tmp_path) as started:
        yield started


async def test_a_submit_is_answered_reported_and_shown(rig):
    assert rig.told["protocol"] == "smpp"
    channel = await rig.channel()
    await until(channel.is_up)
    channel.submit(some_submits(5))
    await until(lambda: len(rig.sink.received) == 5)
    assert all(isinstance(outcome, Submitted) for _, outcome in rig.sink.results)
    channel.answer([report.token for report in rig.sink.received], accepted=True)
    status, shown = await rig.get("/submits")
    assert status == 200
    ids = [outcome.carrier_id for _, outcome in rig.sink.results]
    assert [row["carrier_id"] for row in shown["data"]] == ids
    assert {"at", "to", "segment_ref", "index", "total", "carrier_id", "hex"} <= set(
        shown["data"][0]
    )
    _, rest = await rig.get(f"/submits?after={shown['next_after'] - 2}")
    assert rest["data"] == shown["data"][3:]
    assert (await rig.get("/submits?after=5"))[1]["data"] == []
    assert (await rig.get("/submits?after=-1"))[0] == 422
    await until_answered(rig, 5)


async def until_answered(rig, count):
    async with asyncio.timeout(60):
        while (await rig.get("/counts"))[1]["reports_answered"] != count:  # noqa: ASYNC110 – another process
            await asyncio.sleep(0.01)


async def test_a_wrong_password_gets_no_session(rig):
    channel = await rig.channel(password="wrong")
    await until(lambda: channel.failures >= 2)
    assert not channel.is_up()
    assert "0x0000000e" in channel.last_reason


async def test_with_a_certificate_it_speaks_tls_and_may_ask_for_another(tmp_path):
    authority = Authority()
    mine = authority.issue("shop")
    pem = str(authority.issue("127.0.0.1").file(tmp_path / "carrier.pem"))
    (tmp_path / "ca.pem").write_text(authority.cert)
    asking = ("--tls-cert", pem, "--tls-client-ca", str(tmp_path / "ca.pem"))
    async with a_rig(tmp_path, *asking) as rig:
        nobody = await rig.channel(tls=True, tls_ca=authority.cert)
        await until(lambda: "tls_cert_file" in nobody.why_down())
        known = {"tls_cert": mine.cert, "tls_key": mine.key}
        channel = await rig.channel(tls=True, tls_ca=authority.cert, **known)
        await until(channel.is_up)
        channel.submit(some_submits(2))
        await until(lambda: len(rig.sink.received) == 2)


async def test_behaviour_is_changed_by_field_and_refused_by_name(rig):
    status, shown = await rig.behave({"latency_ms": 2, "failure_share": 1})
    assert status == 200
    assert (shown["latency_ms"], shown["receipt_delay_ms"], shown["failure_share"]) == (2, 5, 1)
    assert (await rig.get("/behaviour"))[1] == shown
    status, problem = await rig.behave({"latency_ms": 3, "silent": "yes", "bogus": 1})
    assert status == 422
    assert [error["pointer"] for error in problem["errors"]] == ["/silent", "/bogus"]
    assert (await rig.get("/behaviour"))[1] == shown
    channel = await rig.channel()
    await until(channel.is_up)
    channel.submit(some_submits(2))
    await until(lambda: len(rig.sink.results) == 2)
    assert all(isinstance(outcome, Rejected) for _, outcome in rig.sink.results)


async def test_the_link_goes_down_and_up_and_unanswered_reports_come_again(rig):
    channel = await rig.channel()
    await until(channel.is_up)
    channel.submit(some_submits(2))
    await until(lambda: len(rig.sink.received) == 2)
    await rig.behave({"silent": True})
    channel.submit(some_submits(1))
    await rig.behave({"link": "down"})
    await until(lambda: not channel.is_up())
    assert isinstance(rig.sink.results[-1][1], Uncertain)
    failures = channel.failures
    await until(lambda: channel.failures > failures)
    assert "no connection" in channel.last_reason
    await rig.behave({"link": "up", "silent": False})
    await until(lambda: len(rig.sink.received) == 4)
    first, again = rig.sink.received[:2], rig.sink.received[2:]
    assert [report.carrier_id for report in again] == [report.carrier_id for report in first]
    channel.answer([report.token for report in rig.sink.received], accepted=True)
    await until_answered(rig, 2)


async def test_it_ends_on_sigterm_without_complaint(rig):
    channel = await rig.channel()
    await until(channel.is_up)
    rig.process.terminate()
    assert await asyncio.wait_for(rig.process.wait(), 60) == 0


async def test_it_ends_when_its_parent_dies(tmp_path):
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'loadtest.carrier', '--name', 'a',"
        " '--port', '0', '--control-port', '0', '--record', sys.argv[1], '--json'])\n"
        "time.sleep(60)\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        str(tmp_path / "b.jsonl"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    told = json.loads(await asyncio.wait_for(parent.stdout.readline(), 60))
    parent.send_signal(signal.SIGKILL)
    await parent.wait()

    def is_gone():
        try:
            os.kill(told["pid"], 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{told['pid']}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z"

    await until(is_gone)
