"""The load client as a process, against a small HTTP server that is not the gateway."""

import asyncio
import json
import sys
from collections import Counter
from dataclasses import asdict

import pytest

from loadtest.sender import Plan, phone_number, sent_times

pytestmark = pytest.mark.integration


class Server:
    """Answers every POST; `status_of(n)` decides the n-th one."""

    def __init__(self, status_of=lambda n: 202, is_last=lambda n: False):
        self.status_of = status_of
        self.is_last = is_last  # whether the n-th answer ends its connection
        self.numbers: Counter[str] = Counter()
        self.requests = 0
        self.connections = 0

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await self.answer(json.loads(await reader.readexactly(size)), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def answer(self, body, writer):
        self.requests += 1
        status = self.status_of(self.requests)
        if status == 0:
            raise ConnectionError
        entries = body.get("messages", [body])
        if status == 202:
            self.numbers.update(entry["to"] for entry in entries)
            verdicts = [{"index": i, "id": f"msg_{i}", "segments": 1} for i in range(len(entries))]
            told = {"id": "x", "accepted": verdicts, "rejected": []}
        else:
            told = {"code": "shed.queue_full", "status": status}
        data = json.dumps(told).encode()
        ending = "Connection: close\r\n" if self.is_last(self.requests) else ""
        head = f"HTTP/1.1 {status} X\r\n{ending}Content-Length: {len(data)}\r\n\r\n".encode()
        writer.write(head)  # in two pieces, as a network may do
        await writer.drain()
        writer.write(data)
        if ending:
            await writer.drain()
            raise ConnectionError


async def run(server, path, **changes):
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 20)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        fields = {
            "host": "127.0.0.1",
            "port": port,
            "api_key": "k",
            "connections": 4,
            "batch": 1,
            "seconds": 20.0,
            "messages": 200,
            "first": 1000,
            "sent_file": str(path),
        }
        plan = Plan(**(fields | changes))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest.sender"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(40):
            out, _ = await process.communicate(json.dumps(asdict(plan)).encode() + b"\n")
    return process.returncode, [json.loads(line) for line in out.splitlines()]


async def test_single_sends_reach_the_server_once_each(tmp_path):
    server = Server()
    code, told = await run(server, tmp_path / "sent")
    assert code == 0
    result = told[-1]
    assert (result["event"], result["accepted"], result["requests"]) == ("result", 200, 200)
    assert server.numbers == Counter(phone_number(i) for i in range(1000, 1200))
    assert server.connections == 4
    assert 0 < result["answer_ms"]["p50"] <= result["answer_ms"]["p99"]
    times = sent_times(tmp_path / "sent")
    assert len(times) == 200
    assert all(result["first_sent_at"] <= at <= result["last_answer_at"] for at in times)


async def test_batches_reach_the_server_once_each(tmp_path):
    server = Server()
    code, told = await run(server, tmp_path / "sent", batch=50, messages=400)
    assert code == 0
    assert (told[-1]["accepted"], told[-1]["requests"]) == (400, 8)
    assert server.numbers == Counter(phone_number(i) for i in range(1000, 1400))


async def test_time_ends_a_run_too(tmp_path):
    server = Server()
    _, told = await run(server, tmp_path / "sent", seconds=0.3, messages=0)
    result = told[-1]
    assert result["accepted"] == sum(server.numbers.values()) > 0
    assert result["last_answer_at"] - result["first_sent_at"] < 20


async def test_refused_and_lost_are_told_and_the_client_goes_on(tmp_path):
    server = Server(lambda n: {5: 503, 9: 0}.get(n, 202))
    _, told = await run(server, tmp_path / "sent")
    result = told[-1]
    assert result["refused"] == {"503 shed.queue_full": 1}
    assert result["unknown"] == 1
    assert result["accepted"] == 198 == sum(server.numbers.values())
    assert server.connections == 5


async def test_a_connection_that_ends_with_its_answer_costs_nothing(tmp_path):
    server = Server(is_last=lambda n: n % 50 == 0)
    _, told = await run(server, tmp_path / "sent")
    assert told[-1]["unknown"] == 0
    assert told[-1]["accepted"] == 200 == sum(server.numbers.values())
    assert server.connections >= 4 + 3


async def test_no_gateway_is_an_error_not_a_result(tmp_path):
    code, told = await run(Server(), tmp_path / "sent", port=1)
    assert code == 2
    assert told[-1]["event"] == "error"
