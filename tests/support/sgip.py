"""Builders for tests of SGIP: settings, sessions that are bound, the SMG's PDUs."""

from adapters.layout import Fields
from adapters.session import SessionPolicy
from adapters.sgip import pdu
from adapters.sgip.session import Account, Common, SgipGuest, SgipSession
from adapters.sgip.settings import parse

SETTINGS = {
    "host": "127.0.0.1",
    "port": 8801,
    "login_name": "fakename",
    "password": "1234",
    "node_id": 3010012345,
    "corp_id": "12345",
}
OWN = parse(SETTINGS)
SMG = (100001, 1121203220, 77)
# 21 November 2026, 20:32:30 in UTC+8, at `now` 0
UNIX_OFFSET = 1795264350.0
STAMP = 1121203230


def a_session(
    window: int = 16,
    policy: SessionPolicy | None = None,
    *,
    common: Common | None = None,
    is_doubtful: bool = False,
    channel: int = 7,
    **settings: object,
) -> SgipSession:
    """A session that nobody connected yet."""
    return SgipSession(
        channel,
        parse({**SETTINGS, **settings}) if settings else OWN,
        policy or SessionPolicy(),
        window,
        common=common or Common(),
        unix_offset=UNIX_OFFSET,
        is_doubtful=is_doubtful,
    )


def bound_session(
    window: int = 16, policy: SessionPolicy | None = None, **more: object
) -> SgipSession:
    """A session at time 0 whose login was just taken; nothing left to send."""
    session = a_session(window, policy, **more)  # type: ignore[arg-type]  # tests name what is real
    session.connected(0.0)
    bind = frames(session.to_send())[0]
    session.receive(response(pdu.BIND_RESP, bind.sequence), 0.0)
    return session


def a_guest(common: Common | None = None, *accounts: Account) -> SgipGuest:
    """A connection of the SMG to us that has said nothing yet."""
    own = accounts or (Account(7, 3010012345, "fakename", "1234"),)
    guest = SgipGuest(
        lambda: own, SessionPolicy(), common=common or Common(), unix_offset=UNIX_OFFSET
    )
    guest.connected(0.0)
    return guest


def bound_guest(common: Common | None = None) -> SgipGuest:
    """A connection of the SMG whose login was just taken; nothing left to send."""
    guest = a_guest(common)
    guest.receive(bind_asked(), 0.0)
    guest.to_send()
    return guest


def bind_asked(
    login_type: int = 2, name: str = "fakename", password: str = "1234", **_: object
) -> bytes:
    """The SMG's BIND."""
    fields: Fields = {"login_type": login_type, "login_name": name, "login_password": password}
    return pdu.build_pdu(pdu.BIND, SMG, fields)


def frames(data: bytes) -> list[pdu.Pdu]:
    """What was written, parsed."""
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        found.append(pdu.parse_pdu(data[:length]))
        data = data[length:]
    return found


def response(command_id: int, sequence: pdu.Sequence, result: int = 0) -> bytes:
    """A response of 29 octets."""
    return pdu.build_pdu(command_id, sequence, {"result": result})


def report(
    submit: pdu.Sequence,
    state: int = 0,
    error: int = 0,
    *,
    counter: int = 77,
    user: str = "8613800138000",
) -> bytes:
    """A REPORT on a submit."""
    fields: Fields = {
        "submit_sequence": pdu.pack_sequence(*submit),
        "user_number": user,
        "state": state,
        "error_code": error,
    }
    return pdu.build_pdu(pdu.REPORT, (100001, 1121203240, counter), fields)


def deliver(content: bytes, coding: int = 15, udhi: int = 0, user: str = "8613800138000") -> bytes:
    """A text from a phone."""
    fields: Fields = {
        "user_number": user,
        "sp_number": "10690001",
        "tp_udhi": udhi,
        "message_coding": coding,
        "content": content,
    }
    return pdu.build_pdu(pdu.DELIVER, SMG, fields)
