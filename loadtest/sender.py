"""The load client of `make bench`: one request open per connection, as cheaply as Python can.

    bench ── plan (one JSON line, stdin) ─────────▶ sender ──▶ gateway, over N kept connections
          ◀─ progress, result (JSON lines, stdout) ─┘  └──▶ a file: when each message was sent

It is a process of its own, so that its CPU does not count as the gateway's, and a plain epoll loop
of non-blocking sockets: no event loop, no HTTP library, requests formatted from a few templates.
Every message has a number and a text of its own, since a gateway could keep what repeats in a
cache. Message i of a data directory goes to `phone_number(i)`, which nobody else gets; that is how
the carriers' records are matched with what was sent.
"""

from __future__ import annotations

import json
import re
import resource
import select
import socket
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtest.measure import Spread, spread

# Per kind of message: prefix (to which eight digits of i are added) and text, one segment each.
# Three carriers of the mainland in UCS-2, and one number abroad in GSM-7 (no signature there).
KINDS: Final = (
    ("+86138", "您的订单%08d已由快递发出，预计明天送达，请留意查收。"),
    ("+86130", "您的订单%08d已签收，感谢惠顾，欢迎对本次服务作出评价。"),
    ("+86189", "您预约的%08d号维修今天下午上门，请保持电话畅通。"),
    ("+121", "Your parcel %08d is on its way and should reach you tomorrow."),
)
DEFAULT_CLASS: Final = "transactional"  # what a message is that says nothing
LAST: Final = 99_999_999  # the greatest i
PAUSE_S: Final = 0.05  # after a refusal; the tenant's Retry-After would empty the measured window
ANSWER_TIMEOUT_S: Final = 30.0
TELL_S: Final = 0.5
_RECEIVE: Final = 1 << 14  # 1 << 18 is mapped and unmapped by malloc each time: +20 µs
_LAST: Final = re.compile(rb"(?i)\r\nconnection: close\r\n")
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def phone_number(index: int) -> str:
    """Whom message `index` goes to, as `to` says it."""
    return f"{KINDS[index % len(KINDS)][0]}{index:08d}"


def index_of(number: str) -> int:
    """The message that goes to this number, with or without `+`."""
    return int(number[-8:])


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. `messages` 0 = until `seconds` are over."""

    host: str
    port: int
    api_key: str
    connections: int
    batch: int  # messages per request; 1 = POST /v1/messages
    seconds: float
    messages: int
    first: int  # index of the first message
    sent_file: str  # doubles: Unix time when message first + n left, 0 when it was not accepted
    keys_file: str = ""  # keys of many tenants, a line each, by turns; else `api_key` alone
    message_class: str = "transactional"
    rate: float = 0.0  # messages a second, evenly; 0 = as fast as the answers come
    is_keyed: bool = False  # with a fresh Idempotency-Key for each request

    def keys(self) -> list[bytes]:
        """The bearer keys, all of one length."""
        if not self.keys_file:
            return [self.api_key.encode()]
        return Path(self.keys_file).read_bytes().split()

    def check(self) -> None:
        """Raise ValueError when this cannot be run."""
        if self.connections < 1 or self.batch < 1 or self.seconds <= 0:
            raise ValueError("connections, batch and seconds must be above 0")
        if self.rate < 0:
            raise ValueError("the rate must not be below 0")
        if not 0 <= self.first <= LAST:
            raise ValueError(f"the first message must be between 0 and {LAST}")


@dataclass(slots=True)
class Result:
    """What the gateway said. Times are Unix seconds, latencies milliseconds."""

    accepted: int = 0
    requests: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # messages by code
    unknown: int = 0  # messages whose answer is missing or says outcome_unknown
    used: int = 0  # indexes used up, from `first` on
    first_sent_at: float = 0.0
    last_answer_at: float = 0.0
    answer_ms: Spread = field(default_factory=lambda: spread([]))  # of the requests with a 202
    first_refusal: str = ""  # the whole answer, for the person who must find out why
    cpu_s: float = 0.0  # of the measured part


class Requests:
    """Builds the bytes of requests: the head and the fixed parts once, the numbers each time."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._templates: dict[int, bytes] = {}  # by kind of the first message
        self._keys = plan.keys()

    def build(self, first: int) -> bytes:
        """The request that carries messages `first` … `first + batch - 1`."""
        kind = first % len(KINDS)
        template = self._templates.get(kind)
        if template is None:
            template = self._templates[kind] = self._template(kind)
        key = self._keys[first // self._plan.batch % len(self._keys)]
        head = (key, first) if self._plan.is_keyed else (key,)
        if self._plan.batch == 1:
            return template % (*head, first, first)
        numbers = range(first, first + self._plan.batch)
        return template % (*head, *(number for number in numbers for _ in (0, 1)))

    def _template(self, first_kind: int) -> bytes:
        entries = []
        for place in range(self._plan.batch):
            prefix, text = KINDS[(first_kind + place) % len(KINDS)]
            entries.append(f'{{"to":"{prefix}%08d","text":"{text}"')
        named = self._plan.message_class
        if self._plan.batch == 1:
            path = "/v1/messages"
            own = "" if named == DEFAULT_CLASS else f',"class":"{named}"'
            body = entries[0] + own + "}"
        else:
            path = "/v1/batches"
            body = f'{{"defaults":{{"class":"{named}"}},"messages":[{"},".join(entries)}}}]}}'
        data = body.encode()
        size = len(data) + 4 * data.count(b"%08d")  # eight digits stand where four octets were
        keyed = 'Idempotency-Key: "order-\1"\r\n' if self._plan.is_keyed else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._plan.host}:{self._plan.port}\r\n"
            f"Authorization: Bearer \0\r\n{keyed}"
            f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        ).encode()
        return head.replace(b"%", b"%%").replace(b"\0", b"%b").replace(b"\1", b"%08d") + data


def parse_answer(data: bytes) -> tuple[int, bytes] | None:
    """Status and body of a complete answer, None while some of it is missing.

    Raises ValueError on what is no answer, has no length, or has more behind it.
    """
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    found = _LENGTH.search(head)
    if found is None or not head.startswith(b"HTTP/1.1 "):
        raise ValueError("this is no answer with a length")
    missing = int(found.group(1)) - len(body)
    if missing < 0:
        raise ValueError("there is more than one answer")
    return None if missing else (int(head[9:12]), body)


class _Verdict(msgspec.Struct):
    index: int
    code: str = ""


class _BatchAnswer(msgspec.Struct):
    accepted: list[_Verdict]
    rejected: list[_Verdict]


class _Problem(msgspec.Struct):
    code: str = ""


def _problem_code(status: int, body: bytes) -> str:
    try:
        return f"{status} {msgspec.json.decode(body, type=_Problem).code}"
    except msgspec.MsgspecError:
        return str(status)


class Tally:
    """Counts answers; knows nothing of sockets."""

    def __init__(self, plan: Plan) -> None:
        self.result = Result()
        self.latencies = array("d")  # s
        self.sent_at = array("d")
        self.refused: Counter[str] = Counter()
        self._first = plan.first
        self._batch = plan.batch
        self._decoder = msgspec.json.Decoder(_BatchAnswer)

    def sent(self) -> None:
        """Room for the next request's messages; they count once accepted."""
        self.result.used += self._batch
        self.sent_at.extend((0.0,) * self._batch)

    def answered(self, first: int, sent_at: float, now: float, answer: tuple[int, bytes]) -> bool:
        """Count one answer; False when the client should pause before it sends again."""
        status, body = answer
        self.result.last_answer_at = now
        if status != 202:
            self._refused(status, body)
            return False
        self.latencies.append(now - sent_at)
        place = first - self._first
        if self._batch == 1:
            self.result.accepted += 1
            self.sent_at[place] = sent_at
            return True
        verdicts = self._decoder.decode(body)
        self.result.accepted += len(verdicts.accepted)
        for verdict in verdicts.accepted:
            self.sent_at[place + verdict.index] = sent_at
        for verdict in verdicts.rejected:
            self.refused[verdict.code] += 1
            self._keep(202, body)
        return not verdicts.rejected

    def _refused(self, status: int, body: bytes) -> None:
        code = _problem_code(status, body)
        if code.endswith("outcome_unknown"):
            self.result.unknown += self._batch
        else:
            self.refused[code] += self._batch
        self._keep(status, body)

    def _keep(self, status: int, body: bytes) -> None:
        if not self.result.first_refusal:
            self.result.first_refusal = f"{status} {body[:2000].decode('utf-8', 'replace')}"

    def lost(self, now: float) -> None:
        """A connection ended or fell silent before its answer."""
        self.result.unknown += self._batch
        self.result.last_answer_at = now

    def finish(self) -> Result:
        """The result, with its latencies summed up."""
        self.result.answer_ms = spread([1000 * latency for latency in self.latencies])
        self.result.refused = dict(self.refused)
        return self.result


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    first: int = 0
    sent_at: float = 0.0
    buffer: bytes = b""
    is_open: bool = False  # a request waits for its answer


class Sender:
    """The epoll loop; `tell` gets a progress report now and then."""

    def __init__(self, plan: Plan, tell: Callable[[dict[str, Any]], None]) -> None:
        plan.check()
        self._plan = plan
        self._tell = tell
        self._tally = Tally(plan)
        self._requests = Requests(plan)
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._paused: deque[tuple[float, _Connection]] = deque()  # due at
        self._open = 0
        self._turns = 0  # that were given out, at a fixed rate
        self._next = plan.first
        limit = plan.first + plan.messages if plan.messages else LAST + 1
        self._last_start = min(limit, LAST + 1) - plan.batch

    def run(self) -> Result:
        """Send until the plan is done, wait for the answers still out; raises OSError at start."""
        for _ in range(self._plan.connections):
            self._connect()
        cpu_before = _cpu_s()
        started = told = self._tally.result.first_sent_at = time.time()
        self._stop_at = started + self._plan.seconds
        for connection in list(self._connections.values()):
            self._send_in_turn(connection)
        while self._open or self._paused:
            self._turn()
            now = time.time()
            if now - told >= TELL_S:
                told = now
                self._tell({"event": "progress", "accepted": self._tally.result.accepted})
            if now > self._stop_at + ANSWER_TIMEOUT_S:
                self._give_up(now)
        self._tally.result.cpu_s = _cpu_s() - cpu_before
        for connection in self._connections.values():
            connection.sock.close()
        self._epoll.close()
        with Path(self._plan.sent_file).open("wb") as file:
            self._tally.sent_at.tofile(file)
        return self._tally.finish()

    def _turn(self) -> None:
        wait = max(0.0, min(0.02, self._paused[0][0] - time.time())) if self._paused else 0.5
        for fd, _ in self._epoll.poll(wait):
            self._receive(self._connections[fd])
        while self._paused and self._paused[0][0] <= time.time():
            self._send(self._paused.popleft()[1])

    def _send_in_turn(self, connection: _Connection) -> None:
        """The next request now or, at a fixed rate, in its turn; late turns are made up for."""
        if not self._plan.rate:
            self._send(connection)
            return
        start = self._tally.result.first_sent_at
        self._turns += 1
        self._paused.append((start + self._turns * self._plan.batch / self._plan.rate, connection))

    def _connect(self) -> _Connection:
        sock = socket.create_connection((self._plan.host, self._plan.port), timeout=5.0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        connection = self._connections[sock.fileno()] = _Connection(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return connection

    def _send(self, connection: _Connection) -> None:
        now = time.time()
        is_over = self._next > self._last_start or now >= self._stop_at
        if is_over or connection.sock.fileno() < 0:  # closed by the gateway during a pause
            return
        connection.first, connection.sent_at = self._next, now
        self._next += self._plan.batch
        self._tally.sent()
        data = self._requests.build(connection.first)
        connection.is_open = True
        self._open += 1
        try:
            sent = connection.sock.send(data)
            while sent < len(data):  # does not happen on loopback but with huge batches
                select.select([], [connection.sock], [], ANSWER_TIMEOUT_S)
                sent += connection.sock.send(data[sent:])
        except OSError:
            self._lost(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(_RECEIVE)
        except OSError:
            data = b""
        if not data:
            self._lost(connection)
            return
        if connection.buffer:
            data = connection.buffer + data
        answer = parse_answer(data)
        if answer is None:
            connection.buffer = data
            return
        connection.buffer = b""
        connection.is_open = False
        self._open -= 1
        self._tally.result.requests += 1
        now = time.time()
        first, sent_at = connection.first, connection.sent_at
        if _LAST.search(data):  # it is closed then: of several workers another has more room
            self._drop(connection)
            connection = self._connect()
        if self._tally.answered(first, sent_at, now, answer):
            self._send_in_turn(connection)
        else:
            self._paused.append((now + PAUSE_S, connection))

    def _drop(self, connection: _Connection) -> None:
        self._epoll.unregister(connection.sock.fileno())
        del self._connections[connection.sock.fileno()]
        connection.sock.close()

    def _lost(self, connection: _Connection) -> None:
        self._drop(connection)
        now = time.time()
        if connection.is_open:
            self._open -= 1
            self._tally.lost(now)
        if now < self._stop_at:
            self._paused.append((now + PAUSE_S, self._connect()))

    def _give_up(self, now: float) -> None:
        self._paused.clear()
        for connection in self._connections.values():
            if connection.is_open:
                self._open -= 1
                connection.is_open = False
                self._tally.lost(now)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def sent_times(path: Path) -> Sequence[float]:
    """What a sender wrote into its `sent_file`."""
    times = array("d")
    data = path.read_bytes()
    times.frombytes(data)
    return times


def main() -> int:
    """The process: 0 when the plan was run, whatever the gateway answered; 2 when it could not."""

    def tell(fields: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()

    try:
        plan = Plan(**json.loads(sys.stdin.readline()))
        result = Sender(plan, tell).run()
    except (OSError, TypeError, ValueError) as error:
        tell({"event": "error", "text": f"{type(error).__name__}: {error}"})
        return 2
    tell({"event": "result", **asdict(result)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
