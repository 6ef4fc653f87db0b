"""The settings of an SGIP channel: names, bounds, defaults; nothing else reads the raw mapping.

    ours to the SMG: host, port, login_name, password, node_id
    the SMG's to us: smg_allow, smg_login_name, smg_password (see docs/carriers.md)

Names are the standard's own. Every wrong or unknown one is found in one go, each with its JSON
pointer and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final

from adapters import checks
from adapters.checks import Check
from adapters.mainland import CONTENT_MAXIMUM
from adapters.sgip.pdu import SubmitLook
from sms.codes import ANSWER_CLASSES, own_classes
from sms.errors import ConfigError

SOURCE: Final = "SGIP 1.2"
PROTOCOL: Final = "SGIP"


class NumberFormat(StrEnum):
    """How a destination is written on the wire."""

    E164 = "e164"  # 86 and the number, as the standard asks
    NATIONAL_CN = "national_cn"  # mainland numbers without 86


class Validity(StrEnum):
    """What stands in ExpireTime."""

    NONE = "none"  # empty: the carrier's default
    ABSOLUTE = "absolute"  # when valid_for_s ends, YYMMDDhhmmss032+


@dataclass(frozen=True, slots=True)
class SgipSettings:
    """One channel's settings, checked."""

    host: str
    port: int
    login_name: str
    password: str = field(repr=False)
    node_id: int
    look: SubmitLook = field(default_factory=SubmitLook)
    number_format: NumberFormat = NumberFormat.E164
    validity_period: Validity = Validity.NONE
    content_maximum: int = CONTENT_MAXIMUM
    status_classes: Mapping[int, str] = field(default_factory=dict)
    response_timeout_s: float | None = None  # None = the policy's
    # The SMG's own logins; without `smg_allow` none is taken.
    smg_allow: tuple[IPv4Network | IPv6Network, ...] = ()
    smg_login_name: str = ""
    smg_password: str = field(default="", repr=False)


_OCTET = checks.integer(0, 255)
_CODE_OF: Final = checks.code_number(1, 255)
_REQUIRED: Final = ("host", "port", "login_name", "password", "node_id")
# name → check; defaults stand in SgipSettings and SubmitLook
_CHECKS: Final[Mapping[str, Check]] = {
    "host": checks.string(1, 253, SOURCE),
    "port": checks.integer(1, 65535),
    "login_name": checks.string(1, 16, SOURCE),
    "password": checks.string(0, 16, SOURCE),
    "node_id": checks.integer(3_000_000_000, 3_999_999_999),  # 3AAAAQQQQQ: an SP's
    "corp_id": checks.digits(5, 5),
    "service_type": checks.string(0, 10, SOURCE),
    "charge_number": checks.digits(0, 21),
    "fee_type": _OCTET,
    "fee_value": checks.digits(0, 6),
    "given_value": checks.digits(0, 6),
    "agent_flag": _OCTET,
    "more_late_to_mt_flag": checks.integer(0, 3),
    "priority": checks.integer(0, 9),
    "number_format": checks.choice(NumberFormat),
    "validity_period": checks.choice(Validity),
    "content_maximum": checks.integer(CONTENT_MAXIMUM, 160),
    "status_classes": checks.code_classes(_CODE_OF, '"130"', ANSWER_CLASSES),
    "response_timeout_s": checks.seconds(1, 300),
    "smg_allow": checks.networks,
    "smg_login_name": checks.string(1, 16, SOURCE),
    "smg_password": checks.string(0, 16, SOURCE),
}
_PLAIN: Final = ("host", "port", "login_name", "password", "node_id", "content_maximum")


def validate(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Everything wrong with a channel's protocol settings: (JSON pointer, what to do)."""
    wrong = checks.find_wrong_wire(raw, _CHECKS, _REQUIRED, PROTOCOL)
    if "smg_allow" not in raw:
        wrong += [
            (f"/{name}", "has no use without `smg_allow`, the addresses the SMG connects from")
            for name in ("smg_login_name", "smg_password")
            if name in raw
        ]
    return wrong


def is_same_guest(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether an SMG's login at our port could be either channel's, by their settings without
    secrets: the same name, and an address that both lists have."""
    names = [one.get("smg_login_name", one.get("login_name")) for one in (first, second)]
    if names[0] != names[1]:
        return False
    lists = [[ip_network(text) for text in one.get("smg_allow", ())] for one in (first, second)]
    return any(
        mine.version == other.version and mine.overlaps(other)
        for mine in lists[0]
        for other in lists[1]
    )


def parse(raw: Mapping[str, Any]) -> SgipSettings:
    """The settings of one channel; ConfigError naming the first wrong one."""
    wrong = validate(raw)
    if wrong:
        pointer, detail = wrong[0]
        raise ConfigError(f"SGIP setting {pointer}: {detail}")
    look_names = {row.name for row in fields(SubmitLook)}
    return SgipSettings(
        **{name: raw[name] for name in _PLAIN if name in raw},
        response_timeout_s=raw.get("response_timeout_s"),
        look=SubmitLook(**{name: raw[name] for name in look_names if name in raw}),
        number_format=NumberFormat(raw.get("number_format", NumberFormat.E164)),
        validity_period=Validity(raw.get("validity_period", Validity.NONE)),
        status_classes=own_classes(raw.get("status_classes", {})),
        smg_allow=tuple(ip_network(text) for text in raw.get("smg_allow", ())),
        smg_login_name=raw.get("smg_login_name", raw["login_name"]),
        smg_password=raw.get("smg_password", raw["password"]),
    )
