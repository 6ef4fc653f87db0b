"""The control port of every simulated carrier, whatever it speaks: HTTP and JSON.

GET /submits[?after=N], GET and POST /behaviour, GET /counts, and POST /inbound with what a phone
sends (`loadtest.phone`).
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Protocol

from loadtest.behaviour import Behaviour, change
from loadtest.phone import PhoneText, parse_phone_text
from loadtest.record import Record
from loadtest.web import Answer, Request, Routes, answer


class Desk(Protocol):
    """Who decides what becomes of submits."""

    behaviour: Behaviour
    record: Record


class Controlled(ABC):
    """A simulated carrier as its control port and its process see it."""

    def __init__(self, desk: Desk, port: int) -> None:
        self.port = port  # 0 until it listens, where any free one was asked for
        self._desk = desk

    @abstractmethod
    async def listen(self) -> int:
        """Open the port; returns it. Raises OSError."""

    @abstractmethod
    async def set_link(self, link: str) -> None:
        """Go up or down; down refuses connections and drops those there are. Raises OSError."""

    @abstractmethod
    def phone(self, text: PhoneText) -> int:
        """A text from a phone stands in line for the gateway from now on; its segments."""

    @abstractmethod
    def counts(self) -> Mapping[str, Any]:
        """Counters since the start."""

    @abstractmethod
    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run beside the port until cancelled."""

    def close(self) -> None:
        """After the link went down: nothing comes any more."""
        self._desk.record.close()

    @abstractmethod
    def changed(self, before: Behaviour) -> None:
        """The behaviour is another one than `before` now: do what follows at once."""

    @abstractmethod
    def remember(self, repeat_s: float) -> None:
        """Owe the reports of the last so many seconds before this start once more."""

    # -- the control port ------------------------------------------------------------------

    async def get_submits(self, request: Request) -> Answer:
        """The record as JSON, from line `after` on; `next_after` is where to go on."""
        try:
            after = int(request.query.get("after", "0"))
        except ValueError:
            after = -1
        if after < 0 or set(request.query) - {"after"}:
            return problem([("/after", "give a whole number, 0 or more; nothing else is known")])
        record = self._desk.record
        count = record.count
        return Answer(200, _listed(count, record.read(after)))

    async def get_behaviour(self, _request: Request) -> Answer:
        """How it behaves now."""
        return answer(self._desk.behaviour.shown())

    async def post_behaviour(self, request: Request) -> Answer:
        """Change what is named. 422 names every wrong field, 409 says that the port cannot be
        opened again; both change nothing.
        """
        try:
            raw = json.loads(request.body)
        except ValueError:
            return problem([("", "give a JSON object")], status=400)
        changed = change(self._desk.behaviour, raw)
        if isinstance(changed, list):
            return problem(changed)
        before, self._desk.behaviour = self._desk.behaviour, changed
        try:
            await self.set_link(changed.link)
        except OSError:
            self._desk.behaviour = before
            detail = (
                f"stays down: port {self.port} cannot be opened, somebody else may have it; free "
                "it, then send this again"
            )
            return problem([("/link", detail)], status=409, code="behaviour.port_taken")
        self.changed(before)
        return answer(changed.shown())

    async def post_inbound(self, request: Request) -> Answer:
        """A text from a phone; 202 when it stands in line for the gateway's sessions."""
        try:
            raw = json.loads(request.body)
        except ValueError:
            return problem([("", "give a JSON object")], status=400, code="inbound.invalid")
        text = parse_phone_text(raw)
        if isinstance(text, list):
            return problem(text, code="inbound.invalid")
        segments = self.phone(text)
        return answer({"segments": segments}, status=202)

    async def get_counts(self, _request: Request) -> Answer:
        """Counters since the start."""
        counts: dict[str, Any] = {**self.counts(), "cpu_s": time.process_time()}
        return answer(counts)

    def routes(self) -> Routes:
        """Who answers on the control port."""
        return {
            ("GET", "/submits"): self.get_submits,
            ("GET", "/behaviour"): self.get_behaviour,
            ("POST", "/behaviour"): self.post_behaviour,
            ("POST", "/inbound"): self.post_inbound,
            ("GET", "/counts"): self.get_counts,
        }


def _listed(next_after: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines of JSON as an answer's list, a chunk at a time."""
    yield b'{"next_after":%d,"data":[' % next_after
    separator = b""
    for chunk in chunks:
        yield separator + chunk[:-1].replace(b"\n", b",")
        separator = b","
    yield b"]}"


def problem(
    wrong: list[tuple[str, str]], status: int = 422, code: str = "behaviour.invalid"
) -> Answer:
    """What a control port says no with: every wrong field, as (JSON pointer, remedy)."""
    pointer, detail = wrong[0]
    body = {
        "type": "about:blank",
        "title": "This cannot be done",
        "status": status,
        "detail": f"{pointer or 'the body'}: {detail}",
        "code": code,
        "errors": [{"pointer": pointer, "detail": detail} for pointer, detail in wrong],
    }
    return answer(body, status, "application/problem+json")
