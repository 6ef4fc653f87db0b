"""The search for leaks finds what it looks for: each form, planted in each kind of sink."""

import base64
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.leaks import Personal, dump_memory, find

pytestmark = pytest.mark.integration  # it runs a program: grep

ME = Personal.roll(7)
NUMBER = ME.number("+86139", 42)
ABROAD = ME.number("+1212", 4)
TEXT = ME.text("您的验证码是")
SAID = ME.inbound("查询")
ME.secrets["key"] = "RKg4dSyHpgWI2L19N86Ga4NVrRs02S"
ME.keys["master"] = bytes(range(1, 10)) + os.urandom(23).replace(b"\n", b"x")
NEEDLES = ME.needles()
LOCAL = NUMBER[3:]


def packed(text: str, shift: int) -> bytes:
    """GSM seven-bit as 3GPP TS 23.038 6.1.2.1.1 has it, after `shift` bits of something else."""
    bits = "".join(f"{ord(one):07b}"[::-1] for one in text)
    bits = "1" * shift + bits
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))


def half_octets(digits: str) -> bytes:
    """As an SMS address has them (3GPP TS 23.040 9.1.2.3)."""
    digits += "F" * (len(digits) % 2)
    return bytes(int(digits[at + 1] + digits[at], 16) for at in range(0, len(digits), 2))


PLANTED: dict[str, str | bytes] = {
    "a number": NUMBER,
    "without +": NUMBER[1:],
    "without its country": LOCAL,
    "with 0086": "00" + NUMBER[1:],
    "abroad": ABROAD,
    "grouped": f"{LOCAL[:3]} {LOCAL[3:7]} {LOCAL[7:]}",
    "grouped with dashes": f"{LOCAL[:3]}-{LOCAL[3:7]}-{LOCAL[7:]}",
    "in a URL": f"/v1/messages?to={quote(NUMBER)}",
    "UTF-16BE": NUMBER.encode("utf-16-be"),
    "UTF-16LE": NUMBER.encode("utf-16-le"),
    "hex": NUMBER.encode().hex(),
    "hex of UTF-16": NUMBER.encode("utf-16-be").hex().upper(),
    **{f"base64 at {n}": base64.b64encode(b"x" * n + NUMBER.encode() + b"yz") for n in range(3)},
    "JSON escapes": "".join(f"\\u{ord(one):04x}" for one in NUMBER),
    **{f"GSM packed at {n}": packed("x" + LOCAL + "y", n) for n in range(8)},
    "half octets": half_octets(NUMBER[1:]),
    "half octets behind another": half_octets("9" + NUMBER[1:]),
    "an integer": int(NUMBER).to_bytes(8, "big"),
    "an integer of a C program": int(NUMBER).to_bytes(8, "little"),
    "an integer in hex": f"{int(LOCAL):x}",
    "a text": TEXT,
    "the code of a text": f"code {ME.code} is",
    "a text in UTF-16BE": TEXT.encode("utf-16-be"),
    "a text in GB 18030": TEXT.encode("gb18030"),
    "a text in JSON": json.dumps(TEXT),
    "a text in upper JSON": json.dumps(ME.phrase).upper().replace("\\U", "\\u"),
    "a text in a URL": quote(TEXT),
    "a text in a lower URL": quote(ME.phrase).lower(),
    "a text in a form's hex": ME.phrase.encode().hex(),
    "a PDU in hex": TEXT.encode("utf-16-be").hex(),
    "a text in base64": base64.b64encode(TEXT.encode()),
    "a text in base64 for URLs": base64.urlsafe_b64encode(("xy" + TEXT).encode()),
    "a text's octets, shown": repr(TEXT.encode()),
    "a text in HTML": TEXT.encode("ascii", "xmlcharrefreplace"),
    "a code packed": packed(f"code {ME.code} is", 3),
    "a text from a phone": SAID,
    "a reference": f'"client_ref": "{ME.reference}-3"',
    "a key": f"smsgw_1_{ME.secrets['key']}",
    "a key in base64": base64.b64encode(f"u:{ME.secrets['key']}".encode()),
    "the master key": ME.keys["master"],
    "the master key in hex": ME.keys["master"].hex(),
    "the master key in base64": base64.b64encode(ME.keys["master"]),
}
BINARY = b"\0\xff\n" + bytes(range(256)) * 3


def as_octets(planted: str | bytes) -> bytes:
    return planted if isinstance(planted, bytes) else planted.encode()


@pytest.fixture(scope="module")
def found_in(tmp_path_factory):
    """The sinks with finds; each form is planted in a log of its own and in a page of its own."""
    folder = tmp_path_factory.mktemp("planted")
    sinks = {}
    for number, (form, planted) in enumerate(PLANTED.items()):
        octets = as_octets(planted)
        log, page = sinks["log", form], sinks["page", form] = (
            folder / f"log-{number}",
            folder / f"page-{number}",
        )
        log.write_bytes(b'{"event": "x ' + octets + b'"}\n')
        page.write_bytes(BINARY + octets + BINARY)
    sinks["clean", ""] = folder / "clean"
    sinks["clean", ""].write_bytes(b'{"event": "to 139****1242"}\n' + BINARY)
    named = {str(name): path for name, path in sinks.items()}
    finds = {one.sink for one in find(NEEDLES, named, folder)}
    return {name for name in sinks if str(name) in finds}


@pytest.mark.parametrize("form", PLANTED)
def test_each_form_is_found_in_a_log_and_in_a_page(form, found_in):
    assert ("log", form) in found_in
    assert ("page", form) in found_in


def test_nothing_is_found_where_nothing_was_planted(found_in):
    assert ("clean", "") not in found_in


def test_what_a_sink_may_hold_is_no_find_there_and_one_elsewhere(tmp_path):
    file = tmp_path / "both"
    file.write_text(f"{SAID} {NUMBER}")
    allowed = {"webhooks": frozenset({"inbound"})}
    found = find(NEEDLES, {"webhooks": file}, tmp_path, allowed=allowed)
    assert {one.needle.kind for one in found} == {"number"}
    assert NUMBER[3:12] in str(found[0])
    found = find(NEEDLES, {"log": file}, tmp_path, allowed=allowed)
    assert {one.needle.kind for one in found} == {"number", "inbound"}


def test_masked_numbers_and_ids_are_no_finds(tmp_path):
    file = tmp_path / "log"
    file.write_text("to 139****1242 msg_01a3c46bd8001000 118152656282718208 2026-11-22\n" * 100)
    assert find(NEEDLES, {"log": file}, tmp_path) == []


def test_a_number_in_the_memory_of_a_process_is_found(tmp_path):
    """What a core of it would hold; put there without the number standing in its arguments."""
    program = "import sys; kept = sys.stdin.buffer.readline(); print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdin.write(NUMBER.encode() + b"\n")
        child.stdin.flush()
        child.stdout.readline()
        core = tmp_path / "core"
        assert dump_memory(child.pid, core) > 100_000
        child.kill()
    assert {one.needle.kind for one in find(NEEDLES, {"core": core}, tmp_path)} == {"number"}


def test_a_logger_that_does_not_mask_is_caught(tmp_path):
    path: Path = tmp_path / "plain.log"
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.emit(logging.LogRecord("x", 40, "x.py", 1, "failed: %s", (TEXT,), None))
    handler.close()
    assert {one.needle.kind for one in find(NEEDLES, {"log": path}, tmp_path)} == {"text"}
