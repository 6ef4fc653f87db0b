"""The settings of an SMGP channel: names, bounds, defaults; nothing else reads the raw mapping.

Names are the standard's own. Every wrong or unknown one is found in one go, each with its JSON
pointer and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from adapters import checks
from adapters.checks import Check
from adapters.mainland import CONTENT_MAXIMUM
from adapters.smgp import pdu
from adapters.smgp.pdu import SubmitLook
from sms.codes import ANSWER_CLASSES, own_classes
from sms.errors import ConfigError

SOURCE: Final = "SMGP 3.0"
PROTOCOL: Final = "SMGP"


class NumberFormat(StrEnum):
    """How a destination is written on the wire."""

    NATIONAL_CN = "national_cn"  # mainland numbers without 86, as the standard's examples
    E164 = "e164"  # with 86


class Validity(StrEnum):
    """What stands in ValidTime."""

    NONE = "none"  # empty: the carrier's default
    ABSOLUTE = "absolute"  # when valid_for_s ends, YYMMDDhhmmss032+


class Connections(StrEnum):
    """How submits and reports travel."""

    ONE = "both"  # one connection for both, login mode 2
    TWO = "separate"  # each session is two connections, login modes 0 and 1


@dataclass(frozen=True, slots=True)
class SmgpSettings:
    """One channel's settings, checked."""

    host: str
    port: int
    client_id: str
    shared_secret: str = field(repr=False)
    client_version: int = pdu.VERSION
    directions: Connections = Connections.ONE
    pad_client_id: bool = False
    look: SubmitLook = field(default_factory=SubmitLook)
    number_format: NumberFormat = NumberFormat.NATIONAL_CN
    validity_period: Validity = Validity.NONE
    content_maximum: int = CONTENT_MAXIMUM
    status_classes: Mapping[int, str] = field(default_factory=dict)
    active_test_s: float | None = None  # None = the policy's
    response_timeout_s: float | None = None  # None = the policy's


_CODE_OF: Final = checks.code_number(1, 0xFFFFFFFF)
_REQUIRED: Final = ("host", "port", "client_id", "shared_secret")
# name → check; defaults stand in SmgpSettings and SubmitLook
_CHECKS: Final[Mapping[str, Check]] = {
    "host": checks.string(1, 253, SOURCE),
    "port": checks.integer(1, 65535),
    "client_id": checks.string(1, 8, SOURCE),
    "shared_secret": checks.string(1, 15, SOURCE),
    "client_version": checks.one_of(0x30, 0x20, 0x13),
    "directions": checks.choice(Connections),
    "pad_client_id": checks.flag,
    "service_id": checks.string(0, 10, SOURCE),
    "fee_type": checks.digits(2, 2),
    "fee_code": checks.digits(1, 6),
    "fixed_fee": checks.digits(1, 6),
    "charge_term_id": checks.digits(0, 21),
    "priority": checks.integer(0, 3),
    "msg_src": checks.string(0, 8, SOURCE),
    "m_service_id": checks.string(0, 21, SOURCE),
    "number_format": checks.choice(NumberFormat),
    "validity_period": checks.choice(Validity),
    "content_maximum": checks.integer(CONTENT_MAXIMUM, 160),
    "status_classes": checks.code_classes(_CODE_OF, '"130"', ANSWER_CLASSES),
    "active_test_s": checks.seconds(1, 3600),
    "response_timeout_s": checks.seconds(1, 300),
}
_PLAIN: Final = (
    *("host", "port", "client_id", "shared_secret", "client_version", "pad_client_id"),
    *("content_maximum", "active_test_s", "response_timeout_s"),
)


def validate(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Everything wrong with a channel's protocol settings: (JSON pointer, what to do)."""
    return checks.find_wrong_wire(raw, _CHECKS, _REQUIRED, PROTOCOL)


def parse(raw: Mapping[str, Any]) -> SmgpSettings:
    """The settings of one channel; ConfigError naming the first wrong one."""
    wrong = validate(raw)
    if wrong:
        pointer, detail = wrong[0]
        raise ConfigError(f"SMGP setting {pointer}: {detail}")
    look = {row.name: raw[row.name] for row in fields(SubmitLook) if row.name in raw}
    look.setdefault("msg_src", raw["client_id"])
    return SmgpSettings(
        **{name: raw[name] for name in _PLAIN if name in raw},
        directions=Connections(raw.get("directions", Connections.ONE)),
        look=SubmitLook(**look),
        number_format=NumberFormat(raw.get("number_format", NumberFormat.NATIONAL_CN)),
        validity_period=Validity(raw.get("validity_period", Validity.NONE)),
        status_classes=own_classes(raw.get("status_classes", {})),
    )
