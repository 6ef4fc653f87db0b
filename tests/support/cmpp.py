"""Builders for tests of CMPP: settings, a bound session, what a carrier says."""

from adapters.cmpp import pdu
from adapters.cmpp.pdu import Layout
from adapters.cmpp.session import Session
from adapters.cmpp.settings import PROTOCOLS, parse
from adapters.session import SessionPolicy

SETTINGS = {
    "host": "127.0.0.1",
    "port": 7890,
    "source_addr": "900001",
    "shared_secret": "888888",
}
_USUAL = {protocol: parse(protocol, SETTINGS) for protocol in PROTOCOLS}
# 2026-11-21 20:23:44 in China: the time stamp of the recorded logins
LOGIN_AT = 1795263824.0


def a_session(
    protocol: str = "cmpp2",
    window: int = 16,
    policy: SessionPolicy | None = None,
    **settings: object,
) -> Session:
    """A session that was not yet connected."""
    parsed = parse(protocol, {**SETTINGS, **settings}) if settings else _USUAL[protocol]
    return Session(7, parsed, policy or SessionPolicy(), window, login_at=LOGIN_AT)


def bound_session(
    protocol: str = "cmpp2",
    window: int = 16,
    policy: SessionPolicy | None = None,
    **settings: object,
) -> Session:
    """A session at time 0 whose login was just taken; nothing left to send."""
    session = a_session(protocol, window, policy, **settings)
    session.connected(0.0)
    session.to_send()
    version = 0x30 if session.layout is Layout.V3 else 0x20
    session.receive(connect_answer(1, session.layout, version=version), 0.0)
    return session


def connect_answer(sequence: int, layout: Layout, status: int = 0, version: int = 0x20) -> bytes:
    """A CONNECT_RESP."""
    fields: dict[str, pdu.Value] = {"status": status, "version": version}
    return pdu.build_pdu(pdu.CONNECT_RESP, sequence, fields, layout)


def header(command_id: int, sequence: int = 0) -> bytes:
    """A PDU without a body."""
    return pdu.pack_header(12, command_id, sequence)


def frames(data: bytes, layout: Layout = Layout.V2) -> list[pdu.Pdu]:
    """What was written, parsed."""
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        found.append(pdu.parse_pdu(data[:length], layout))
        data = data[length:]
    return found


def submit_answer(
    sequence: int, msg_id: int = 0, result: int = 0, layout: Layout = Layout.V2
) -> bytes:
    """A SUBMIT_RESP."""
    fields: dict[str, pdu.Value] = {"msg_id": msg_id.to_bytes(8, "big"), "result": result}
    return pdu.build_pdu(pdu.SUBMIT_RESP, sequence, fields, layout)


def report_body(
    msg_id: int, stat: str = "DELIVRD", number: str = "13800138000", size: int = 60
) -> bytes:
    """The content of a status report, of 60 or 71 octets."""
    return b"".join(
        (
            msg_id.to_bytes(8, "big"),
            stat.encode().ljust(7, b"\0"),
            b"2611212028" * 2,
            number.encode().ljust(size - 39, b"\0"),
            bytes(4),
        )
    )


def deliver(
    sequence: int,
    content: bytes,
    *,
    registered: int = 0,
    layout: Layout = Layout.V2,
    **fields: pdu.Value,
) -> bytes:
    """A DELIVER from 13800138000 to 10690001."""
    known: dict[str, pdu.Value] = {
        "msg_id": sequence.to_bytes(8, "big"),
        "dest_id": "10690001",
        "src_terminal_id": "13800138000",
        "registered_delivery": registered,
        "content": content,
    }
    return pdu.build_pdu(pdu.DELIVER, sequence, {**known, **fields}, layout)


def report(
    sequence: int, msg_id: int, stat: str = "DELIVRD", *, size: int = 60, layout: Layout = Layout.V2
) -> bytes:
    """A DELIVER with a status report."""
    content = report_body(msg_id, stat, size=size)
    return deliver(sequence, content, registered=1, layout=layout)
