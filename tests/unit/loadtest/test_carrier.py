"""What a simulated carrier's control port answers; sockets are in tests/integration."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.carrier import Carrier, arguments
from loadtest.web import Request


async def test_a_link_that_cannot_come_up_stays_down_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["--name", "a", "--port", "2775", "--control-port", "0", "--record"]
    carrier = Carrier(arguments().parse_args([*line, str(tmp_path / "a.jsonl")]))

    async def post(**body: Any) -> Any:
        return await carrier.post_behaviour(Request({}, json.dumps(body).encode()))

    async def listen() -> int:
        raise OSError(errno.EADDRINUSE, "address already in use")

    monkeypatch.setattr(carrier, "listen", listen)
    assert (await post(link="down")).status == 200
    answer = await post(link="up", latency_ms=7)
    problem = json.loads(answer.body)
    assert (answer.status, problem["code"]) == (409, "behaviour.port_taken")
    assert problem["errors"][0]["pointer"] == "/link"
    assert "port 2775 cannot be opened" in problem["detail"]
    shown = carrier.smsc.behaviour
    assert shown.link == "down"
    assert shown.latency_ms != 7  # a refusal changes nothing
    carrier.smsc.record.close()
