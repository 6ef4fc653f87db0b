"""What a run must not have emitted, in every form that it could stand in, and the search for it.

    secrets = Personal.roll(seed)
    secrets.number("+86139", 7)   "+8613972941507": all numbers of a run share six digits
    secrets.text("您的验证码")      the text with the two marks of the run in it
    find(secrets.needles(), files)

Each form is made from the mark alone, so whatever stands around it does not matter; where the
place inside a unit does (base64, seven-bit packing, half octets) there is a form for each place.
The search is GNU grep's for fixed strings over raw octets. It goes line by line, therefore a form
with a line feed in it cannot be found: marks are rolled again until none of theirs has one.
"""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

NETWORKS = ("139", "186", "189", "192")  # China Mobile, Unicom, Telecom, Broadnet
ABROAD = "1212"
AROUND = 60  # octets shown on each side of a find
LEAST = 6  # octets of a form: a shorter one is in any random data
_LETTERS = "BCDFGHJKLMNPQRSTVWXZbcdfghjkmnpqrstvwxz"
_IN_GSM = {"@": 0, "_": 0x11}  # letters and digits are themselves (3GPP TS 23.038, 6.2.1)


@dataclass(frozen=True, slots=True)
class Needle:
    """One form of one thing."""

    kind: str  # number, text, inbound, secret, reference
    what: str
    form: str
    octets: bytes


@dataclass(frozen=True, slots=True)
class Find:
    """Where a needle was found."""

    sink: str
    needle: Needle
    at: int
    around: bytes

    def __str__(self) -> str:
        """One line for a person."""
        needle = self.needle
        where = f"{self.sink} at {self.at}"
        return f"{needle.kind} {needle.what!r} as {needle.form} in {where}: {self.around!r}"


@dataclass(slots=True)
class Personal:
    """The numbers and the marks of one run."""

    block: str  # six digits
    code: str  # as a one-time code: letters and digits
    phrase: str  # six Chinese characters
    said: str  # a mark of what phones write to us, with letters only in ASCII
    said_phrase: str
    reference: str  # what a tenant calls its messages
    secrets: dict[str, str] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)  # E.164 digits that were used

    @classmethod
    def roll(cls, seed: int) -> Personal:
        """Marks nobody else has, that can be searched for."""
        dice = random.Random(seed)
        while True:
            made = cls(
                f"{dice.randrange(220_000, 999_999)}",
                _code(dice),
                _phrase(dice),
                _code(dice),
                _phrase(dice),
                f"ref-{_code(dice)}",
            )
            if not any(b"\n" in one.octets for one in made._marks()) and "11" not in made.block:
                return made

    def number(self, prefix: str, n: int) -> str:
        """E.164 with +: "+86139" and n < 100, or "+1212" and n < 10."""
        digits = prefix.lstrip("+") + self.block
        digits += f"{n:02}" if digits.startswith("86") else f"{n}"
        self.given.add(digits)
        return f"+{digits}"

    def text(self, words: str) -> str:
        """A text to a phone: both marks, and the code once more where a segment may be cut."""
        return f"{words}{self.code}，{self.phrase}。"

    def inbound(self, words: str) -> str:
        """A text from a phone."""
        return f"{words} {self.said} {self.said_phrase}"

    def needles(self) -> list[Needle]:
        """Every form of everything, those of whole numbers and secrets too."""
        found = list(self._marks())
        for digits in sorted(self.given):
            found += _forms("number", digits, _whole_number(digits))
        for name, secret in self.secrets.items():
            found += _forms("secret", name, _of_ascii(secret))
        for name, key in self.keys.items():
            found += _forms("secret", name, _of_bytes(key))
        return [one for one in found if b"\n" not in one.octets and len(one.octets) >= LEAST]

    def _marks(self) -> Iterator[Needle]:
        for prefix in (*NETWORKS, ABROAD):
            yield from _forms("number", f"{prefix}{self.block}…", _digits(prefix + self.block))
        for kind, marks in {
            "text": (self.code, self.phrase),
            "inbound": (self.said, self.said_phrase),
            "reference": (self.reference,),
        }.items():
            for mark in marks:
                make = _of_ascii if mark.isascii() else _of_chinese
                yield from _forms(kind, mark, make(mark))


def _code(dice: random.Random) -> str:
    """Ten letters and digits: as no word, no id in hex, no base64 of a length."""
    letters = [dice.choice(_LETTERS) for _ in range(7)]
    for place in (2, 5, 6):
        letters.insert(place, dice.choice("23456789"))
    return "".join(letters)


def _phrase(dice: random.Random) -> str:
    return "".join(chr(dice.randrange(0x4E00, 0x9FA5)) for _ in range(6))


def _forms(kind: str, what: str, forms: Mapping[str, bytes]) -> list[Needle]:
    return [Needle(kind, what, form, octets) for form, octets in forms.items()]


# -- forms -------------------------------------------------------------------------------------


def _of_ascii(mark: str) -> dict[str, bytes]:
    raw = mark.encode()
    forms = {"ASCII": raw} | _wide(mark) | _packed(mark)
    return forms | _in_base64("base64", raw) | _in_hex("hex", raw)


def _digits(digits: str) -> dict[str, bytes]:
    forms = _of_ascii(digits)
    if len(digits) == 9:  # a mainland number up to its last two digits
        for between in (" ", "-"):
            forms[f"grouped {between!r}"] = between.join(
                (digits[:3], digits[3:7], digits[7:])
            ).encode()
    return forms


def _of_chinese(mark: str) -> dict[str, bytes]:
    raw = mark.encode()
    forms = {"UTF-8": raw, "GB 18030": mark.encode("gb18030")} | _wide(mark)
    forms |= _in_base64("base64", raw) | _in_hex("hex", raw)
    escaped = quote(mark)
    forms |= {"percent upper": escaped.encode(), "percent lower": escaped.lower().encode()}
    for case in (str.lower, str.upper):
        for width, head in ((4, "\\u"), (8, "\\U")):
            forms[f"{head} {case.__name__}"] = "".join(
                head + case(f"{ord(one):0{width}x}") for one in mark
            ).encode()
    forms["repr of octets"] = repr(raw)[2:-1].encode()
    forms["HTML"] = "".join(f"&#{ord(one)};" for one in mark).encode()
    return forms


def _wide(mark: str) -> dict[str, bytes]:
    """UTF-16 both ways, and as hex, base64 and JSON have it."""
    forms: dict[str, bytes] = {}
    for name, codec in (("UTF-16BE", "utf-16-be"), ("UTF-16LE", "utf-16-le")):
        raw = mark.encode(codec)
        forms |= {name: raw} | _in_hex(f"hex of {name}", raw)
        forms |= _in_base64(f"base64 of {name}", raw)
    for case in (str.lower, str.upper):
        units = [case(f"{ord(one):04x}") for one in mark]
        forms[f"JSON {case.__name__}"] = "".join(f"\\u{unit}" for unit in units).encode()
    return forms


def _in_hex(name: str, raw: bytes) -> dict[str, bytes]:
    return {f"{name} lower": raw.hex().encode(), f"{name} upper": raw.hex().upper().encode()}


def _in_base64(name: str, raw: bytes) -> dict[str, bytes]:
    """As it stands in the base64 of something longer: the characters that `raw` alone decides."""
    forms = {}
    for place in range(3):
        text = base64.b64encode(bytes(place) + raw)
        first = (0, 2, 3)[place]
        last = (len(raw) + place) * 8 // 6
        inner = text[first:last]
        forms[f"{name} at {place}"] = inner
        if b"+" in inner or b"/" in inner:
            forms[f"URL {name} at {place}"] = inner.replace(b"+", b"-").replace(b"/", b"_")
    return forms


def _packed(mark: str) -> dict[str, bytes]:
    """GSM seven-bit, packed: the whole octets inside, for each bit it may begin at."""
    forms: dict[str, bytes] = {}
    for shift in range(8):
        bits = 0
        for index, one in enumerate(mark):
            bits |= _IN_GSM.get(one, ord(one)) << (shift + 7 * index)
        size = shift + 7 * len(mark)
        raw = bits.to_bytes(size // 8 + 1, "little")
        forms[f"GSM packed at {shift}"] = raw[1 if shift else 0 : size // 8]
    return forms


def _whole_number(digits: str) -> dict[str, bytes]:
    """What can only be said of a number with all its digits: half octets, and as an integer."""
    forms = {}
    for place in range(2):
        pairs = [digits[at : at + 2] for at in range(place, len(digits) - 1, 2)]
        forms[f"half octets at {place}"] = bytes(int(pair, 16) for pair in pairs)
        forms[f"half octets, swapped, at {place}"] = bytes(int(pair[::-1], 16) for pair in pairs)
    national = digits[2:] if digits.startswith("86") else digits
    for name, value in (("", int(digits)), ("national ", int(national))):
        forms[f"{name}int64 big"] = value.to_bytes(8, "big")
        forms[f"{name}int64 little"] = value.to_bytes(8, "little")
        forms |= _in_hex(f"{name}integer in hex", b"") | {
            f"{name}integer in hex": f"{value:x}".encode()
        }
    return forms


def _of_bytes(key: bytes) -> dict[str, bytes]:
    forms = {"raw": key, "repr": repr(key)[2:-1].encode()}
    return forms | _in_hex("hex", key) | _in_base64("base64", key)


# -- the search --------------------------------------------------------------------------------


def find(
    needles: Iterable[Needle],
    files: Mapping[str, Path],
    folder: Path,
    *,
    allowed: Mapping[str, frozenset[str]] | None = None,
) -> list[Find]:
    """Every place where a needle stands in one of `files` (sink's name to path).

    `folder` takes the list of patterns; `allowed` are the kinds that a sink may hold.
    """
    by_octets: dict[bytes, Needle] = {}
    for needle in needles:
        by_octets.setdefault(needle.octets, needle)
    patterns = folder / "needles"
    patterns.write_bytes(b"\n".join(by_octets) + b"\n")
    sinks = {str(path): sink for sink, path in files.items()}
    found = []
    for path, at, octets in _grep(patterns, list(sinks)):
        needle, sink = by_octets[octets], sinks[path]
        if allowed is None or needle.kind not in allowed.get(sink, ()):
            found.append(Find(sink, needle, at, _around(Path(path), at, len(octets))))
    return found


def _grep(patterns: Path, paths: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """(path, offset, octets) of each match."""
    done = subprocess.run(
        ["xargs", "-0", "grep", "-H", "-Z", "-a", "-o", "-b", "-F", "-f", str(patterns)],
        input="\0".join(paths).encode(),
        env={"PATH": os.defpath, "LC_ALL": "C"},
        capture_output=True,
        check=False,
        timeout=120,
    )
    if done.stderr:
        raise RuntimeError(done.stderr.decode())
    for line in done.stdout.split(b"\n")[:-1]:
        path, _, told = line.partition(b"\0")
        offset, _, octets = told.partition(b":")
        yield path.decode(), int(offset), octets


def _around(path: Path, at: int, size: int) -> bytes:
    with path.open("rb") as file:
        start = max(0, at - AROUND)
        file.seek(start)
        return file.read(at - start + size + AROUND)


# -- what cannot be listed as files --------------------------------------------------------------


def dump_memory(pid: int, into: Path) -> int:
    """Write what a process of ours holds in writable memory; how many octets.

    What a core would have, without ending the process. PermissionError where the machine does not
    let a parent look.
    """
    size = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory, into.open("wb") as out:
        for start, end in _writable(pid):
            memory.seek(start)
            left = end - start
            while left:
                try:
                    piece = memory.read(min(left, 1 << 20))
                except OSError:  # a guard page
                    break
                if not piece:
                    break
                out.write(piece)
                size += len(piece)
                left -= len(piece)
    return size


def _writable(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        name = line.split(None, 5)[5] if len(line.split(None, 5)) > 5 else ""
        if rights.startswith("rw") and name not in ("[vvar]", "[vsyscall]"):
            start, end = span.split("-")
            yield int(start, 16), int(end, 16)


def told(finds: Sequence[Find], most: int = 12) -> str:
    """The first of them, a line each, and how many there are."""
    lines = [str(one) for one in finds[:most]]
    return "\n".join([f"{len(finds)} places", *lines])


def as_json(value: object) -> bytes:
    """The way a body is sent."""
    return json.dumps(value, ensure_ascii=False).encode()
