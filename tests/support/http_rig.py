"""A loopback vendor in the test's own loop, and an HTTP channel to it.

The vendor reads whole requests of raw HTTP and counts every reference in them; how it answers one
is a word of `Plan`, so that a test can have it cut, hang or talk nonsense at any byte.
"""

import asyncio
import json
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import count
from typing import Any

from adapters.http.channel import HttpChannel
from adapters.http.vendor import (
    MAX_ANSWER,
    Asked,
    Call,
    CallKind,
    Pushed,
    Reply,
    Request,
    Told,
    Traits,
    Verdict,
    reference_of,
)
from adapters.session import SessionPolicy
from sms import config
from sms.errors import CannotSend, RemoteProtocolError
from sms.model import Carrier, Encoding, Inbound, Message, MessageClass, Report, Submit
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Uncertain
from tests.support.smpp import FakeSink

_numbers = count(1)
CUT = ("cut", "cut in head", "cut in body", "reset")
UNREADABLE = ("garbage", "not json", "500", "too long")
GOOD = ("good", "good and close", "good then closed", "slow")
PLANS = (*GOOD, *CUT, *UNREADABLE)


def a_submit(
    number: str | None = None, message_class: MessageClass = MessageClass.TRANSACTIONAL
) -> Submit:
    """A submit of a message of its own, to a number of its own."""
    number_id = next(_numbers)
    number = number or f"86138{number_id:08}"
    message = Message(
        number_id,
        1,
        message_class,
        number,
        Carrier.CM,
        86,
        Encoding.UCS2,
        ("你好",),
        valid_until=1e12,
        created_at=0.0,
    )
    payload = "你好".encode("utf-16-be")
    return Submit(message, 0, 1, number, "1069", Encoding.UCS2, payload, False, 300)


class FakeVendor:
    """Says the references of its submits as JSON, and reads an id for each of them."""

    def __init__(self, endpoint: str, traits: Traits, method: str = "POST") -> None:
        self.traits = traits
        self.endpoint = endpoint
        self.method = method
        self.cannot: set[str] = set()  # numbers that no request can hold
        self.faulty: set[str] = set()  # numbers for which a whole request is refused
        self.blames = False  # it says whose fault it was
        self.cannot_ask = False
        self.questions = 0
        self.is_broken_in = ""  # "send" or "read": its own code fails there

    def together(self, submit: Submit) -> Hashable:
        return submit.sender

    def send(self, submits: Sequence[Submit], unix: float, nonce: str) -> Request:
        if self.is_broken_in == "send":
            raise KeyError("a bug")
        if any(submit.number in self.cannot for submit in submits):
            raise CannotSend("no_template", "content.template")
        refs = [reference_of(submit) for submit in submits]
        if self.method == "GET":
            return Request("GET", f"{self.endpoint}/send?refs={','.join(refs)}")
        body = json.dumps({"refs": refs}).encode()
        headers = (("Content-Type", "application/json"),)
        return Request(self.method, f"{self.endpoint}/send", headers, body)

    def read(self, submits: Sequence[Submit], reply: Reply) -> Sequence[Outcome | None]:
        if self.is_broken_in == "read":
            raise KeyError("a bug")
        if any(submit.number in self.faulty for submit in submits):
            refused = Rejected("bad", Cause.NUMBER, "recipient.invalid")
            is_known = self.blames or len(submits) == 1
            return [
                refused if is_known and submit.number in self.faulty else None for submit in submits
            ]
        try:
            ids = json.loads(reply.body)["ids"]
        except (ValueError, KeyError):
            return [Uncertain("channel.error") for _ in submits]
        return [Submitted(one) for one in ids]

    def question(self, asked: Sequence[Asked], unix: float, nonce: str) -> Request:
        self.questions += 1
        if self.cannot_ask:
            raise CannotSend("query", "channel.misconfigured")
        return Request("GET", f"{self.endpoint}/ask?{reference_of(asked[0].submit)}")

    def told(self, asked: Sequence[Asked], reply: Reply) -> list[Told]:
        found = json.loads(reply.body)
        carrier_id = found.get("id", "")
        report = None
        if "state" in found:
            report = Report(7, carrier_id, found["state"], "", asked[0].submit.number)
        return [Told(Verdict(found["verdict"]), carrier_id, report)]

    def pull(self, kind: CallKind, unix: float, nonce: str) -> Request | None:
        return Request("GET", f"{self.endpoint}/pull/{kind}")

    def pulled(self, kind: CallKind, reply: Reply) -> Pushed:
        try:
            ids = json.loads(reply.body)
        except ValueError:
            raise RemoteProtocolError("no JSON") from None
        if kind is CallKind.RECEIPTS:
            return Pushed(reports=tuple(Report(7, one, "DELIVRD", "", "") for one in ids))
        return Pushed(texts=tuple(Inbound(7, "8613800138000", "1069", one) for one in ids))

    def pushed(self, call: Call) -> Pushed:
        raise AssertionError("the rig calls nobody back")


class HttpRig:
    """One vendor and one channel to it."""

    def __init__(
        self,
        *,
        sessions: int = 1,
        window: int = 16,
        traits: Traits | None = None,
        method: str = "POST",
        settings: dict[str, object] | None = None,
        submit_timeout_s: float | None = None,
        tls: ssl.SSLContext | None = None,
        **policy: Any,
    ) -> None:
        self.sink = FakeSink()
        self.plan: Callable[[str], str] = lambda _: "good"
        self.seen: Counter[str] = Counter()  # how often each reference arrived
        self.requests: list[list[str]] = []  # the references of each request
        self.heads: list[bytes] = []
        self.connections = 0
        self.told: dict[str, Any] = {"verdict": "silent"}  # the answer to questions
        self.asked: list[str] = []
        self.pulls: dict[str, list[list[str]]] = {"receipts": [], "inbound": []}
        self.journaled_at_first_byte = -1
        self.is_deaf = False  # new connections are not read
        self.release = asyncio.Event()  # what "held" answers wait for
        self._traits = traits or Traits()
        self._method, self._settings, self._tls = method, settings or {}, tls
        self._submit_timeout_s = submit_timeout_s
        self._sizes = sessions, window
        self._policy = SessionPolicy(**{"reconnect_min_s": 0.01, "reconnect_max_s": 0.02, **policy})
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls, limit=2**20
        )
        listener = self._server.sockets[0]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.port = listener.getsockname()[1]

    def make(self) -> HttpChannel:
        scheme = "https" if self._tls else "http"
        self.vendor = FakeVendor(f"{scheme}://localhost:{self.port}", self._traits, self._method)
        sessions, window = self._sizes
        channel = config.Channel(
            7,
            "rig",
            "http",
            self._settings,
            sessions=sessions,
            window=window,
            submit_timeout_s=self._submit_timeout_s,
        )
        self.channel = HttpChannel(channel, self.sink, self._policy, self.vendor)
        return self.channel

    async def start(self) -> HttpChannel:
        """Listen, connect, and wait until the channel is up."""
        await self.listen()
        self.make().start()
        await until(self.channel.is_up)
        return self.channel

    async def deaf(self) -> None:
        """Listen no more, and drop every connection."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def stop(self, timeout_s: float = 0.05) -> None:
        await self.channel.stop(timeout_s)
        await self.deaf()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def outcomes_of(self, submit: Submit) -> list[Outcome]:
        return [outcome for one, outcome in self.sink.results if one is submit]

    # -- the vendor ------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self.is_deaf:
                writer.transport.pause_reading()  # type: ignore[attr-defined] # of a transport
                await self.release.wait()
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if self.journaled_at_first_byte < 0:
            self.journaled_at_first_byte = len(self.sink.written)
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        body = await reader.readexactly(length)
        path = head.split()[1].decode()
        if path.startswith("http://"):  # we are the proxy
            path = path[path.index("/", len("http://")) :]
        if path.startswith("/ask"):
            self.asked.append(path.partition("?")[2])
            return _answer(writer, json.dumps(self.told).encode())
        if path.startswith("/pull/"):
            found = self.pulls[path.removeprefix("/pull/")]
            return _answer(writer, json.dumps(found.pop(0) if found else []).encode())
        query = path.partition("refs=")[2]
        refs = query.split(",") if query else json.loads(body)["refs"]
        self.seen.update(refs)
        self.requests.append(refs)
        return await self._act(self.plan(refs[0]), refs, writer)

    async def _act(self, plan: str, refs: list[str], writer: asyncio.StreamWriter) -> bool:
        good = json.dumps({"ids": [f"id-{ref}" for ref in refs]}).encode()
        if plan in ("slow", "held"):
            await (asyncio.sleep(0.01) if plan == "slow" else self.release.wait())
        elif plan == "reset":
            writer.transport.abort()
        elif plan in _CUTS:
            writer.write(_CUTS[plan] + good[:20])
        if plan in _ANSWERS:
            status, cut, more, is_kept = _ANSWERS[plan]
            _answer(writer, _TOO_LONG if plan == "too long" else good[:cut], more, status)
            return is_kept
        return False


_TOO_LONG = b" " * (MAX_ANSWER + 1)
_OK, _CLOSE = b"200 OK", b"Connection: close\r\n"
# plan to status, where the body ends, more headers, and whether the connection is kept
_ANSWERS = {
    "good": (_OK, None, b"", True),
    "slow": (_OK, None, b"", True),
    "held": (_OK, None, b"", True),
    "good and close": (_OK, None, _CLOSE, False),
    "good then closed": (_OK, None, b"", False),
    "500": (b"500 Internal Server Error", 3, b"", True),
    "not json": (_OK, -5, b"", True),
    "too long": (_OK, None, b"", True),
}
# plan to what stands before a few octets, and then the connection is closed
_CUTS = {
    "garbage": b"\x00\x01 what?\r\n\r\n",
    "cut in head": b"HTTP/1.1 200 OK\r\nContent-",
    "cut in body": b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n",
}


def _answer(
    writer: asyncio.StreamWriter, body: bytes, more: bytes = b"", status: bytes = b"200 OK"
) -> bool:
    writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n" % (status, len(body), more) + body)
    return True


async def until(condition: Callable[[], object]) -> None:
    """Turns of the loop until it holds; a test that waits in vain says where."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 – any condition
            await asyncio.sleep(0.001)
