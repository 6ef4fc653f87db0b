"""What can be wrong with a TCP link, as words: how its door behaves, and each of its two ways.

What is left out of a change keeps its value. `both` stands for the two ways at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

DOORS: Final = (
    "open",
    "refused",  # nobody listens; the connections that there are go on
    "silent",  # taken, and never read, answered or led on: half-open from its first moment
)
MAXIMUM: Final = 86_400_000  # of a whole number: a day in milliseconds
BYTES_MAXIMUM: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of a link. Counts of bytes begin when the fault is set, or the connection."""

    delay_ms: int = 0
    jitter_ms: int = 0  # the delay is up to so much more; the order of bytes stays
    bytes_per_s: int = 0  # at most, of each connection; 0 = as many as come
    stall: bool = False  # nothing passes, and all that was held does once it ends
    drop: bool = False  # read and thrown away; a stream with a hole is reset when it ends
    garble_share: float = 0.0  # of the bytes, changed at random
    garble_at: int | None = None  # the byte that is changed, counted from 0
    cut_after: int = 0  # the connection ends behind so many bytes; 0 = never

    @property
    def is_plain(self) -> bool:
        """Whether bytes pass as they come."""
        return self == _PLAIN


_PLAIN: Final = Way()


@dataclass(frozen=True, slots=True)
class LinkFault:
    """A link: its door and both ways."""

    door: str = "open"
    up: Way = field(default_factory=Way)  # from who connects to who is connected to
    down: Way = field(default_factory=Way)

    def shown(self) -> dict[str, Any]:
        """As the control port shows it."""
        return asdict(self)


def _is_whole(value: object, maximum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= maximum


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _wrong(name: str, value: object) -> str | None:
    match name:
        case "delay_ms" | "jitter_ms":
            is_good, remedy = _is_whole(value, MAXIMUM), f"a whole number to {MAXIMUM}"
        case "bytes_per_s" | "cut_after":
            is_good, remedy = _is_whole(value, BYTES_MAXIMUM), "a whole number of bytes"
        case "garble_at":
            is_good = value is None or _is_whole(value, BYTES_MAXIMUM)
            remedy = "a whole number of bytes, or null for none"
        case "garble_share":
            is_good, remedy = _is_share(value), "a number from 0 to 1"
        case "stall" | "drop":
            is_good, remedy = isinstance(value, bool), "true or false"
        case _:
            return f"is unknown; known: {', '.join(one.name for one in fields(Way))}"
    return None if is_good else f"give {remedy}"


def change(now: LinkFault, raw: object) -> LinkFault | list[tuple[str, str]]:
    """The link after a change, or everything wrong with it: (JSON pointer, detail)."""
    if not isinstance(raw, Mapping):
        return [("", "give a JSON object")]
    wrong: list[tuple[str, str]] = []
    changed = now
    for name, value in raw.items():
        if name == "door":
            if value not in DOORS:
                wrong.append(("/door", f"give one of {', '.join(DOORS)}"))
                continue
            changed = replace(changed, door=value)
        elif name not in {"up", "down", "both"}:
            wrong.append((f"/{name}", "is unknown; known: door, up, down, both"))
        elif not isinstance(value, Mapping):
            wrong.append((f"/{name}", "give a JSON object"))
        else:
            found = [(f"/{name}/{key}", _wrong(key, one)) for key, one in value.items()]
            wrong += [(pointer, detail) for pointer, detail in found if detail]
            if not wrong:
                ways = ("up", "down") if name == "both" else (name,)
                changed = replace(
                    changed, **{way: replace(getattr(changed, way), **value) for way in ways}
                )
    return wrong or changed
