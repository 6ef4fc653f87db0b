"""What a simulated carrier says differently in each protocol; all else is `loadtest.smsc`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from adapters import mainland
from adapters.sgip import pdu as sgip
from adapters.smgp import pdu as smgp
from adapters.smpp import pdu as smpp
from adapters.smpp.receipt import DATA_CODING_UCS2
from loadtest import sgip_server, smgp_server, smpp_server
from loadtest.smpp_server import BindAsked, Event
from sms import gsm


class Side(Protocol):
    """One connection of a carrier, sans I/O (`loadtest.smpp_server.ServerSession`)."""

    system_id: str
    is_closed: bool
    heard_at: float
    unanswered: int

    def to_send(self) -> bytes:
        """The bytes to write now; handed out once."""
        ...

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Bytes from the client."""
        ...

    def answer_bind(self, asked: BindAsked, status: int, server_id: str) -> None:
        """Take or refuse a login."""
        ...

    def answer_submits(self, answers: Sequence[tuple[int, int, bytes]]) -> None:
        """Answer submits: (sequence, status, carrier id)."""
        ...

    def deliver_room(self) -> int:
        """How many reports may be sent now."""
        ...

    def deliver(self, bodies: Sequence[bytes], now: float) -> None:
        """Send reports; each is kept until it is answered."""
        ...

    def overdue(self, now: float, timeout_s: float) -> list[bytes]:
        """Take back the reports that nobody answered in time."""
        ...

    def enquire(self) -> None:
        """Ask whether the client is still there."""
        ...

    def lost(self) -> list[bytes]:
        """The connection is gone: the reports that nobody answered."""
        ...


class BuildReport(Protocol):
    """A report as the body of its PDU; dates are YYMMDDhhmm."""

    def __call__(  # noqa: D102 – the class says it
        self,
        carrier_id: bytes,
        to: bytes,
        sender: bytes,
        *,
        submitted: bytes,
        done: bytes,
        is_good: bool,
    ) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """One protocol, from the carrier's side."""

    make_side: Callable[[], Side]
    build_report: BuildReport
    carrier_id: Callable[[str, int, int], str]  # prefix, count, sequence
    text_of: Callable[[int, bytes], str]  # coding, content without its header
    unknown_name: int  # what a login is refused with
    wrong_password: int
    throttled: int
    failure: int  # of the carrier's system, unless told otherwise


def _smpp_id(prefix: str, count: int, _sequence: int) -> str:
    return f"{prefix}{count:08x}"


def _smpp_text(data_coding: int, data: bytes) -> str:
    if data_coding & 0x0F == DATA_CODING_UCS2:
        return data.decode("utf-16-be", "replace")
    return gsm.decode(data)


def _mainland_text(coding: int, data: bytes) -> str:
    return mainland.text_of(coding, data, has_udh=False)


DIALECTS: Final[Mapping[str, Dialect]] = {
    "smpp": Dialect(
        smpp_server.ServerSession,
        smpp_server.build_report,
        _smpp_id,
        _smpp_text,
        unknown_name=smpp.ESME_RINVSYSID,
        wrong_password=smpp.ESME_RINVPASWD,
        throttled=smpp.ESME_RTHROTTLED,
        failure=smpp.ESME_RSYSERR,
    ),
    "sgip": Dialect(
        sgip_server.SgipServer,
        sgip_server.build_report,
        sgip_server.carrier_id,
        _mainland_text,
        unknown_name=sgip.BAD_LOGIN,
        wrong_password=sgip.BAD_LOGIN,
        throttled=sgip.BUSY,
        failure=32,
    ),
    "smgp": Dialect(
        smgp_server.SmgpServer,
        smgp_server.build_report,
        smgp_server.carrier_id,
        _mainland_text,
        unknown_name=smgp.BAD_AUTHENTICATION,
        wrong_password=smgp.BAD_AUTHENTICATION,
        throttled=smgp.BUSY,
        failure=2,
    ),
}
