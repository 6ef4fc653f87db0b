"""Submits read by the book (SMPP 3.4, 4.4.1; CMPP 3.0, 7.4.3.1), without the gateway's own code."""

import struct
from dataclasses import dataclass

SUBMIT_SM = 0x00000004
CMPP_SUBMIT = 0x00000004
UDHI = 0x40
UNPACKED_GSM7 = 0x00
UCS2 = 0x08

# GSM 03.38, 6.2.1: what the tests send of it besides what stands where ASCII has it.
_BASIC = {0x00: "@", 0x02: "$", 0x11: "_", 0x0A: "\n", 0x0D: "\r"}
_EXTENDED = {0x3C: "[", 0x3E: "]", 0x65: "€", 0x28: "{", 0x29: "}", 0x2F: "\\"}
_SAME_AS_ASCII = frozenset(
    [0x20, *range(0x25, 0x40), 0x21, 0x22, 0x23, *range(0x41, 0x5B), *range(0x61, 0x7B)]
)


@dataclass(frozen=True)
class Submit:
    """The fields a test looks at; `header` is (reference, total, index) of a long message."""

    to: str
    esm_class: int
    registered_delivery: int
    data_coding: int
    header: tuple[int, int, int] | None
    body: bytes

    def text(self) -> str:
        """What a phone would show of it."""
        if self.data_coding == UCS2:
            return self.body.decode("utf-16-be")  # strict: a cut surrogate pair is an error
        shown = []
        octets = iter(self.body)
        for octet in octets:
            if octet == 0x1B:
                shown.append(_EXTENDED[next(octets)])
            elif octet in _SAME_AS_ASCII:
                shown.append(chr(octet))
            else:
                shown.append(_BASIC[octet])
        return "".join(shown)

    def octets_on_air(self) -> int:
        """Octets of user data, header included; septets are packed there (03.40, 9.2.3.24)."""
        header = 6 if self.header else 0
        if self.data_coding == UCS2:
            return header + len(self.body)
        padding = -(header * 8) % 7
        return (header * 8 + padding + len(self.body) * 7 + 7) // 8


def parse_submit(frame: bytes) -> Submit:
    """One whole submit_sm, its length field included."""
    length, command, status, _ = struct.unpack_from(">IIII", frame)
    assert (length, command, status) == (len(frame), SUBMIT_SM, 0)
    at = 16

    def text() -> str:
        nonlocal at
        end = frame.index(0, at)
        value, at = frame[at:end].decode("ascii"), end + 1
        return value

    def octet() -> int:
        nonlocal at
        at += 1
        return frame[at - 1]

    text()  # service_type
    octet(), octet(), text()  # source
    octet(), octet()
    to = text()
    esm_class = octet()
    octet(), octet()  # protocol_id, priority_flag
    text(), text()  # schedule_delivery_time, validity_period
    registered_delivery = octet()
    octet()  # replace_if_present_flag
    data_coding = octet()
    octet()  # sm_default_msg_id
    size = octet()
    body = frame[at : at + size]
    assert len(body) == size
    header = None
    if esm_class & UDHI:
        assert body[:3] == b"\x05\x00\x03"  # 8-bit concatenation, 03.40 9.2.3.24.1
        header = (body[3], body[4], body[5])
        body = body[6:]
    return Submit(to, esm_class, registered_delivery, data_coding, header, body)


def parse_cmpp3_submit(frame: bytes) -> Submit:
    """One whole CMPP_SUBMIT of version 3.0 to one number."""
    length, command, _ = struct.unpack_from(">III", frame)
    assert (length, command) == (len(frame), CMPP_SUBMIT)
    registered_delivery = frame[12 + 10]  # behind Msg_Id, Pk_total, Pk_number
    # Msg_level, Service_Id, Fee_UserType, Fee_terminal_Id, Fee_terminal_type
    at = 12 + 11 + 1 + 10 + 1 + 32 + 1
    _, has_header, msg_fmt = frame[at : at + 3]
    # Msg_src, FeeType, FeeCode, ValId_Time, At_Time, Src_Id
    at += 3 + 6 + 2 + 6 + 17 + 17 + 21
    assert frame[at] == 1  # DestUsr_tl
    to = frame[at + 1 : at + 33].rstrip(b"\0").decode("ascii")
    at += 1 + 32 + 1
    size = frame[at]
    body = frame[at + 1 : at + 1 + size]
    assert len(frame) == at + 1 + size + 20  # LinkID
    header = None
    if has_header:
        assert body[:3] == b"\x05\x00\x03"
        header = (body[3], body[4], body[5])
        body = body[6:]
    return Submit(to, 0, registered_delivery, msg_fmt, header, body)
