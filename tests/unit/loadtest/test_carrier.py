"""What a simulated carrier's control port answers; sockets are in tests/integration."""

import errno
import json

from loadtest.carrier import Carrier, arguments


class FakeRequest:
    def __init__(self, body):
        self._body = json.dumps(body).encode()

    async def read(self):
        return self._body


async def test_a_link_that_cannot_come_up_stays_down_and_says_why(tmp_path):
    line = ["--name", "a", "--port", "2775", "--control-port", "0", "--record"]
    carrier = Carrier(arguments().parse_args([*line, str(tmp_path / "a.jsonl")]))
    assert (await carrier.post_behaviour(FakeRequest({"link": "down"}))).status == 200

    async def listen():
        raise OSError(errno.EADDRINUSE, "address already in use")

    carrier.listen = listen
    answer = await carrier.post_behaviour(FakeRequest({"link": "up", "latency_ms": 7}))
    problem = json.loads(answer.body)
    assert (answer.status, problem["code"]) == (409, "behaviour.port_taken")
    assert problem["errors"][0]["pointer"] == "/link"
    assert "port 2775 cannot be opened" in problem["detail"]
    shown = json.loads((await carrier.get_behaviour(FakeRequest({}))).body)
    assert shown["link"] == "down"
    assert shown["latency_ms"] != 7  # a refusal changes nothing
    carrier.smsc.record.close()
