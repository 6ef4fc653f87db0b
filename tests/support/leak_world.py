"""Peers that say back what they were sent: a carrier, a vendor, a receiver of webhooks."""

from __future__ import annotations

import abc
import contextlib
import itertools
import json
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from adapters.smpp import pdu
from tests.support.leaks import Personal

Wrong = Callable[[int, bytes, bytes], bytes]  # (sequence number, number, text) to octets


def _answer(sequence: int, status: int, word: bytes) -> bytes:
    body = word[:60] + b"\0"
    return struct.pack(">IIII", 16 + len(body), pdu.SUBMIT_SM_RESP, status, sequence) + body


def _deliver(sequence: int, number: bytes, short: bytes, *, length: int | None = None) -> bytes:
    """A deliver_sm as a receipt; `length`: what sm_length says when it lies."""
    told = len(short) if length is None else length
    body = b"\0\1\1" + number + b"\0\1\1" + b"10690001\0" + b"\4\0\0\0\0\0\0\0\0"
    body += bytes([told]) + short
    return struct.pack(">IIII", 16 + len(body), pdu.DELIVER_SM, 0, sequence) + body


def _receipt(number: bytes, text: bytes) -> bytes:
    # The id is the carrier's to choose and is kept as it is: reports are matched by it.
    return b"id:1234567 sub:001 dlvrd:000 stat:%b err:%b text:%b" % (number, number, text)


# What it answers a submit with, in turn; each but the first ends the session, or ought to.
WRONG: tuple[tuple[str, Wrong], ...] = (
    ("refused with the text as its id", lambda n, to, text: _answer(n, 0x45, text)),
    ("unknown status", lambda n, to, text: _answer(n, 0x0BADBAD, to)),
    ("answer to nothing", lambda n, to, text: _answer(n + 99_999, 0, to + text)),
    ("id without an end", lambda n, to, text: _answer(n, 0, b"")[:16] + (to + text) * 9),
    (
        "length over the PDU",
        lambda n, to, text: _deliver(n, to, _receipt(to, text)[:200], length=254),
    ),
    ("receipt for an unknown id", lambda n, to, text: _deliver(n, to, _receipt(to, text)[:200])),
    (
        "unknown command",
        lambda n, to, text: struct.pack(">IIII", 16 + len(to + text), 0x77, 0, n) + to + text,
    ),
    ("no PDU at all", lambda n, to, text: to + text + to + text),
)


class Peer(abc.ABC):
    """Somebody who listens, with a thread for each link; `said`: what was said once at least."""

    def __init__(self) -> None:
        self.said: set[str] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(link,), daemon=True).start()

    def _talk(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            self._serve(link)

    @abc.abstractmethod
    def _serve(self, link: socket.socket) -> None: ...


class BadCarrier(Peer):
    """An SMSC that takes a login and then talks nonsense, with numbers and texts in it."""

    def __init__(self, personal: Personal) -> None:
        super().__init__()
        self.number = personal.number("+86139", 90).lstrip("+").encode()
        self.text = personal.text("您的验证码是").encode()
        self._turns = itertools.cycle(WRONG)

    def _serve(self, link: socket.socket) -> None:
        while head := self._read(link, 4):
            (length,) = struct.unpack(">I", head)
            self._hear(link, pdu.parse_pdu(head + self._read(link, length - 4)))

    def _hear(self, link: socket.socket, heard: pdu.Pdu) -> None:
        sequence = heard.sequence
        if heard.command_id == pdu.SUBMIT_SM:
            name, wrong = next(self._turns)
            link.sendall(wrong(sequence, self.number, self.text))
            self.said.add(name)
        elif heard.command_id == pdu.BIND_TRANSCEIVER:
            link.sendall(pdu.build_pdu(pdu.BIND_TRANSCEIVER_RESP, sequence, {"system_id": "SMSC"}))
        elif not heard.command_id & pdu.RESPONSE:
            answer = struct.pack(">IIII", 16, heard.command_id | pdu.RESPONSE, 0, sequence)
            link.sendall(answer)

    @staticmethod
    def _read(link: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = link.recv(size - len(data))
            if not piece:
                return b""
            data += piece
        return data


def _json(status: int, value: object) -> bytes:
    body = json.dumps(value, ensure_ascii=False).encode()
    return _http(f"{status} X", body)


def _http(line: str, body: bytes, *heads: str) -> bytes:
    head = [f"HTTP/1.1 {line}", f"Content-Length: {len(body)}", "Connection: close", *heads]
    return "\r\n".join([*head, "", ""]).encode() + body


def vendor_answers(to: str, text: str) -> list[tuple[str, bytes]]:
    """What a vendor could say that holds what it was asked to send."""
    fault = {"requestError": {"serviceException": {"messageId": text, "text": f"{to}: {text}"}}}
    group = {"groupId": 5, "groupName": to, "id": 51, "name": text, "description": text}
    return [
        ("a fault that quotes", _json(400, fault)),
        ("a fault of its own that quotes", _json(500, fault)),
        ("a state that quotes", _json(200, {"messages": [{"to": to, "status": group}]})),
        ("no JSON", _http("200 OK", f"<html>{to} {text}</html>".encode())),
        ("a broken JSON", _http("200 OK", f'{{"to": "{to}", "text": "{text}'.encode())),
        ("another place", _http("302 F", b"", f"Location: http://127.0.0.1/?to={to}&t={text}")),
        ("a wrong first line", f"HTTP/1.1 {to} {text}\r\n\r\n".encode()),
        ("no HTTP", f"{to} {text}\r\n".encode() * 3),
        ("an endless header", _http("200 OK", b"", f"X-Said: {to} {text * 500}")),
        ("a wrong length", f"HTTP/1.1 200 OK\r\nContent-Length: {to} {text}\r\n\r\n".encode()),
        ("a reason", _http(f"401 {to} {text}", text.encode())),
        ("a wrong coding", _http("200 OK", text.encode(), "Content-Encoding: gzip")),
    ]


class BadVendor(Peer):
    """A vendor's HTTP server that answers with one of `vendor_answers`, in turn."""

    def __init__(self, personal: Personal) -> None:
        super().__init__()
        to = personal.number("+86139", 91).lstrip("+")
        self.answers = vendor_answers(to, personal.text("您的验证码是"))
        self._turns = itertools.cycle(self.answers)

    def _serve(self, link: socket.socket) -> None:
        link.settimeout(2)
        request = b""
        while b"\r\n\r\n" not in request:
            piece = link.recv(65536)
            if not piece:
                return
            request += piece
        name, answer = next(self._turns)
        link.sendall(answer)
        self.said.add(name)


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hooks: EchoHooks

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        count = self.hooks.took(self.path, body)
        status = 500 if count % 10 == 3 else 200
        answer = f"you said {body.decode()} {self.hooks.own_words}".encode()
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class EchoHooks:
    """A tenant's receiver that says everything back, and more; every tenth time 500."""

    def __init__(self, own_words: str) -> None:
        self.own_words = own_words
        self.bodies: dict[str, list[bytes]] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Echo,), {"hooks": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def took(self, path: str, body: bytes) -> int:
        """Keep it; how many came."""
        with self._lock:
            self.bodies.setdefault(path, []).append(body)
            return sum(map(len, self.bodies.values()))

    def events(self, path: str) -> list[dict[str, Any]]:
        """What came there."""
        return [json.loads(body) for body in list(self.bodies.get(path, ()))]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
