"""The settings of a CMPP channel: names, bounds, defaults; nothing else reads the raw mapping.

Names are the standard's own. The channel's protocol, `cmpp2` or `cmpp3`, is the version.
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
    integer,
    is_whole,
    seconds,
    string,
)
from adapters.cmpp.pdu import Layout, SubmitLook
from adapters.mainland import CONTENT_MAXIMUM
from sms.codes import ANSWER_CLASSES, code_of, own_classes
from sms.errors import ConfigError

VERSION_2: Final = 0x20
VERSION_3: Final = 0x30
PROTOCOLS: Final[Mapping[str, int]] = {"cmpp2": VERSION_2, "cmpp3": VERSION_3}
_SOURCE: Final = "CMPP"


class NumberFormat(StrEnum):
    """How a destination is written on the wire."""

    NATIONAL_CN = "national_cn"  # mainland numbers as 11 digits, others as e164
    E164 = "e164"  # digits without '+'
    PLUS = "plus"  # '+' and digits


class PkNumbers(StrEnum):
    """What Pk_total and Pk_number say of a long message."""

    SEGMENTS = "segments"  # the same as the header in the content
    ONE = "one"  # 1 of 1: for carriers that read the header only


class Validity(StrEnum):
    """What stands in ValId_Time."""

    NONE = "none"  # the carrier's default
    ABSOLUTE = "absolute"  # the message's end, YYMMDDhhmmss032+


@dataclass(frozen=True, slots=True)
class CmppSettings:
    """One channel's settings, checked."""

    host: str
    port: int
    source_addr: str
    shared_secret: str = field(repr=False)
    version: int
    look: SubmitLook
    number_format: NumberFormat = NumberFormat.NATIONAL_CN
    status_classes: Mapping[int, str] = field(default_factory=dict)
    active_test_s: float | None = None  # None = the policy's
    response_timeout_s: float | None = None  # None = the policy's

    @property
    def layout(self) -> Layout:
        """How the version we ask for is laid out."""
        return Layout.V3 if self.version >= VERSION_3 else Layout.V2


def _string(least: int, most: int) -> Check:
    return string(least, most, _SOURCE)


def _version(value: object) -> str | None:
    is_good = is_whole(value) and value in (VERSION_2, 0x21)
    return None if is_good else "give 0x20 or 0x21; for 3.0 the protocol is cmpp3"


def _version_3(value: object) -> str | None:
    is_good = is_whole(value) and value == VERSION_3
    return None if is_good else "give 0x30; for 2.0 the protocol is cmpp2"


_LOOK: Final[Mapping[str, Check]] = {
    "msg_src": _string(0, 6),
    "service_id": _string(0, 10),
    "fee_user_type": integer(0, 3),
    "fee_terminal_id": _string(0, 21),
    "fee_type": _string(2, 2),
    "fee_code": _string(0, 6),
    "msg_level": integer(0, 9),
    "tp_pid": integer(0, 255),
    "content_maximum": integer(CONTENT_MAXIMUM, 160),
}
_REQUIRED: Final = ("host", "port", "source_addr", "shared_secret")
# name → check; defaults stand in CmppSettings and SubmitLook
_CHECKS: Final[Mapping[str, Check]] = {
    "host": _string(1, 253),
    "port": integer(1, 65535),
    # Six: carriers differ in how they hash a shorter one.
    "source_addr": _string(6, 6),
    "shared_secret": _string(1, 64),
    "version": _version,
    **_LOOK,
    "number_format": choice(NumberFormat),
    "pk_numbers": choice(PkNumbers),
    "validity_period": choice(Validity),
    "status_classes": code_classes(code_of, "90", ANSWER_CLASSES),
    "active_test_s": seconds(1, 3600),
    "response_timeout_s": seconds(1, 300),
}


def validate_2(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Everything wrong with the settings of a `cmpp2` channel: (JSON pointer, what to do)."""
    return find_wrong_wire(raw, _CHECKS, _REQUIRED, "a CMPP channel")


def validate_3(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """The same for a `cmpp3` channel."""
    return find_wrong_wire(raw, {**_CHECKS, "version": _version_3}, _REQUIRED, "a CMPP channel")


def parse(protocol: str, raw: Mapping[str, Any]) -> CmppSettings:
    """The settings of one channel of this protocol; ConfigError naming the first wrong one."""
    version = PROTOCOLS[protocol]
    wrong = validate_3(raw) if version == VERSION_3 else validate_2(raw)
    if wrong:
        pointer, detail = wrong[0]
        raise ConfigError(f"CMPP setting {pointer}: {detail}")
    look = {"msg_src": raw["source_addr"], **{name: raw[name] for name in _LOOK if name in raw}}
    times = {name: raw[name] for name in ("active_test_s", "response_timeout_s") if name in raw}
    return CmppSettings(
        host=raw["host"],
        port=raw["port"],
        source_addr=raw["source_addr"],
        shared_secret=raw["shared_secret"],
        version=raw.get("version", version),
        look=SubmitLook(
            **look,
            has_pk=raw.get("pk_numbers", PkNumbers.SEGMENTS) == PkNumbers.SEGMENTS,
            has_valid_time=raw.get("validity_period", Validity.NONE) == Validity.ABSOLUTE,
        ),
        number_format=NumberFormat(raw.get("number_format", NumberFormat.NATIONAL_CN)),
        status_classes=own_classes(raw.get("status_classes", {})),
        **times,
    )
