"""Builders for tests of SMGP: settings, a session that is bound, the carrier's PDUs."""

from adapters.layout import Fields
from adapters.session import SessionPolicy
from adapters.smgp import pdu
from adapters.smgp.session import SmgpSession
from adapters.smgp.settings import parse

SETTINGS = {
    "host": "127.0.0.1",
    "port": 8890,
    "client_id": "10690001",
    "shared_secret": "888888",
}
OWN = parse(SETTINGS)
# 21 November 2026, 20:22:50 in UTC+8, at `now` 0
UNIX_OFFSET = 1795263770.0
STAMP = 1121202250
MSG_ID = bytes.fromhex("28765811212025188514")


def a_session(
    window: int = 16,
    policy: SessionPolicy | None = None,
    *,
    mode: int = pdu.MODE_BOTH,
    **settings: object,
) -> SmgpSession:
    """A session that nobody connected yet."""
    own = parse({**SETTINGS, **settings}) if settings else OWN
    return SmgpSession(
        7, own, policy or SessionPolicy(), window, unix_offset=UNIX_OFFSET, mode=mode
    )


def bound_session(
    window: int = 16,
    policy: SessionPolicy | None = None,
    *,
    mode: int = pdu.MODE_BOTH,
    **settings: object,
) -> SmgpSession:
    """A session at time 0 whose login was just taken; nothing left to send."""
    session = a_session(window, policy, mode=mode, **settings)
    session.connected(0.0)
    session.to_send()
    session.receive(login_answer(), 0.0)
    return session


def login_answer(status: int = 0, sequence: int = 1) -> bytes:
    """A Login_Resp whose authenticator is nobody's."""
    return pdu.build_pdu(pdu.LOGIN_RESP, sequence, {"status": status, "server_version": 0x30})


def frames(data: bytes) -> list[pdu.Pdu]:
    """What was written, parsed."""
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        found.append(pdu.parse_pdu(data[:length]))
        data = data[length:]
    return found


def submit_answer(sequence: int, msg_id: bytes = MSG_ID, status: int = 0) -> bytes:
    """A Submit_Resp."""
    return pdu.build_pdu(pdu.SUBMIT_RESP, sequence, {"msg_id": msg_id, "status": status})


def report_body(msg_id: bytes = MSG_ID, state: bytes = b"DELIVRD", error: bytes = b"000") -> bytes:
    """The 122 octets of a report by the book."""
    return (
        b"id:%b sub:001 dlvrd:001 submit date:2611212025 done date:2611212025"
        b" stat:%b err:%b text:%b" % (msg_id, state, error, b"\0" * 20)
    )


def deliver(
    content: bytes,
    *,
    is_report: int = 1,
    msg_format: int = 0,
    sequence: int = 9,
    outer: bytes = b"\x99" * 10,
    tlvs: list[tuple[int, bytes]] | None = None,
    source: str = "13800138000",
) -> bytes:
    """A Deliver: a report unless told otherwise."""
    fields: Fields = {
        "msg_id": outer,
        "is_report": is_report,
        "msg_format": msg_format,
        "recv_time": "20261121202543",
        "src_term_id": source,
        "dest_term_id": "10690001",
        "content": content,
    }
    return pdu.build_pdu(pdu.DELIVER, sequence, fields, tlvs=tlvs or [])
