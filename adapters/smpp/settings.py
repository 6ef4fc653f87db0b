"""The settings of an SMPP channel: names, bounds, defaults; nothing else reads the raw mapping.

Names are the standard's own. Every wrong or unknown one is found in one go, each with its
JSON pointer and what to do, so that a configuration file is mended in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from adapters.checks import (
    Check,
    choice,
    code_classes,
    find_wrong_wire,
    flag,
    integer,
    is_whole,
    seconds,
    string,
)
from adapters.smpp.alphabet import Alphabet
from adapters.smpp.template import SubmitLook
from sms.codes import ANSWER_CLASSES, code_of, own_classes
from sms.errors import ConfigError


class NumberFormat(StrEnum):
    """How a destination is written on the wire."""

    E164 = "e164"  # digits without '+', TON 1 NPI 1
    PLUS = "plus"  # '+' and digits
    NATIONAL_CN = "national_cn"  # mainland numbers without 86, others as e164


class Bind(StrEnum):
    """How each session of the channel logs in."""

    TRX = "trx"  # one connection for both directions
    TX_RX = "tx+rx"  # a transmitter and a receiver: two connections


class LongMessages(StrEnum):
    """How a text of several segments leaves."""

    UDH = "udh"  # a header in the user data of each segment
    SAR = "sar"  # the same as three TLVs
    PAYLOAD = "payload"  # whole, in message_payload: the carrier cuts it and sends one receipt


class SubmitPdu(StrEnum):
    """Which PDU carries a submit."""

    SUBMIT_SM = "submit_sm"
    DATA_SM = "data_sm"


class IdMatch(StrEnum):
    """How the id in a receipt relates to the one in the submit's answer."""

    EXACT = "exact"
    IGNORE_CASE = "ignore_case"
    IGNORE_ZEROS = "ignore_zeros"  # leading zeros differ
    HEX_DECIMAL = "hex_decimal"  # answer hexadecimal, receipt decimal
    DECIMAL_HEX = "decimal_hex"  # answer decimal, receipt hexadecimal


class Validity(StrEnum):
    """What stands in validity_period."""

    RELATIVE = "relative"  # what is left of valid_for_s, YYMMDDhhmmss000R
    NONE = "none"  # the carrier's default; for carriers that refuse the field


@dataclass(frozen=True, slots=True)
class SmppSettings:
    """One channel's settings, checked."""

    host: str
    port: int
    system_id: str
    password: str = field(repr=False)
    system_type: str = ""
    interface_version: int = 0x34
    addr_ton: int = 0
    addr_npi: int = 0
    address_range: str = ""
    bind: Bind = Bind.TRX
    look: SubmitLook = field(default_factory=SubmitLook)
    default_alphabet: Alphabet = Alphabet.GSM7
    number_format: NumberFormat = NumberFormat.E164
    id_match: IdMatch = IdMatch.EXACT
    status_classes: Mapping[int, str] = field(default_factory=dict)
    enquire_link_s: float | None = None  # None = the policy's
    response_timeout_s: float | None = None  # None = the policy's
    query_after_s: float | None = None  # None = receipts that stay away are not asked for


_SOURCE: Final = "SMPP 3.4"


def _string(least: int, most: int) -> Check:
    return string(least, most, _SOURCE)


def _bind(value: object) -> str | None:
    if value in ("tx", "rx"):
        return "gives one direction only; give trx, or tx+rx for a connection of each kind"
    return None if value in ("trx", "tx+rx") else "give trx, or tx+rx for separate connections"


def _version(value: object) -> str | None:
    return None if value in (0x34, 0x50) and is_whole(value) else "give 0x34 (3.4) or 0x50 (5.0)"


_OCTET = integer(0, 255)
_REQUIRED: Final = ("host", "port", "system_id", "password")
# name → check; defaults stand in SmppSettings and SubmitLook
_CHECKS: Final[Mapping[str, Check]] = {
    "host": _string(1, 253),
    "port": integer(1, 65535),
    "system_id": _string(1, 15),
    "password": _string(0, 8),
    "system_type": _string(0, 12),
    "bind": _bind,
    "interface_version": _version,
    "addr_ton": _OCTET,
    "addr_npi": _OCTET,
    "address_range": _string(0, 40),
    "service_type": _string(0, 5),
    "source_ton": _OCTET,
    "source_npi": _OCTET,
    "dest_ton": _OCTET,
    "dest_npi": _OCTET,
    "gsm7_data_coding": _OCTET,
    "ucs2_data_coding": _OCTET,
    "default_alphabet": choice(Alphabet),
    "submit_pdu": choice(SubmitPdu),
    "long_messages": choice(LongMessages),
    "validity_period": choice(Validity),
    "number_format": choice(NumberFormat),
    "id_match": choice(IdMatch),
    "status_classes": code_classes(code_of, '"0x0401"', ANSWER_CLASSES),
    "enquire_link_s": seconds(1, 3600),
    "response_timeout_s": seconds(1, 300),
    "query_after_s": seconds(1, 259_200),
    "user_message_reference": flag,
}


def validate(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Everything wrong with a channel's protocol settings: (JSON pointer, what to do)."""
    return find_wrong_wire(raw, _CHECKS, _REQUIRED, "an SMPP channel")


def parse(raw: Mapping[str, Any]) -> SmppSettings:
    """The settings of one channel; ConfigError naming the first wrong one."""
    wrong = validate(raw)
    if wrong:
        pointer, detail = wrong[0]
        raise ConfigError(f"SMPP setting {pointer}: {detail}")
    plain = {
        name: raw[name]
        for name in (
            "host",
            "port",
            "system_id",
            "password",
            "system_type",
            "interface_version",
            "addr_ton",
            "addr_npi",
            "address_range",
            "enquire_link_s",
            "response_timeout_s",
            "query_after_s",
        )
        if name in raw
    }
    return SmppSettings(
        **plain,
        bind=Bind(raw.get("bind", Bind.TRX)),
        look=_look(raw),
        default_alphabet=Alphabet(raw.get("default_alphabet", Alphabet.GSM7)),
        number_format=NumberFormat(raw.get("number_format", NumberFormat.E164)),
        id_match=IdMatch(raw.get("id_match", IdMatch.EXACT)),
        status_classes=own_classes(raw.get("status_classes", {})),
    )


def _look(raw: Mapping[str, Any]) -> SubmitLook:
    default = SubmitLook()
    return SubmitLook(
        service_type=raw.get("service_type", default.service_type),
        source_addr_ton=raw.get("source_ton", default.source_addr_ton),
        source_addr_npi=raw.get("source_npi", default.source_addr_npi),
        dest_addr_ton=raw.get("dest_ton", default.dest_addr_ton),
        dest_addr_npi=raw.get("dest_npi", default.dest_addr_npi),
        gsm7_data_coding=raw.get("gsm7_data_coding", default.gsm7_data_coding),
        ucs2_data_coding=raw.get("ucs2_data_coding", default.ucs2_data_coding),
        has_validity=raw.get("validity_period", Validity.RELATIVE) == Validity.RELATIVE,
        is_sar=raw.get("long_messages") == LongMessages.SAR,
        is_payload=raw.get("long_messages") == LongMessages.PAYLOAD,
        is_data=raw.get("submit_pdu") == SubmitPdu.DATA_SM,
        has_reference=raw.get("user_message_reference", default.has_reference),
    )
