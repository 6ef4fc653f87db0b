"""Every recorded SGIP PDU: decoded as recorded, and built back to the same bytes."""

import json
from pathlib import Path

import pytest

from adapters.sgip import pdu
from adapters.wire import Framer
from loadtest.sgip_server import parse_submit

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sgip.json").read_text("utf-8"))
HEADER_KEYS = {"message_length", "command_id", "sequence", "name"}
DERIVED_KEYS = {"message_length_field", "text", "udh_hex", "content_hex"}


def _ids(vectors):
    return [vector["name"] for vector in vectors]


def _fields(decoded):
    fields = {
        name: value for name, value in decoded.items() if name not in HEADER_KEYS | DERIVED_KEYS
    }
    for name in ("user_number",):
        if isinstance(fields.get(name), list):
            fields[name] = tuple(fields[name])
    if "reserve" in fields:
        fields["reserve"] = bytes.fromhex(fields["reserve"])
    if "submit_sequence" in fields:
        fields["submit_sequence"] = pdu.pack_sequence(*fields["submit_sequence"])
    if "message_length_field" in decoded:
        fields["content"] = bytes.fromhex(decoded["content_hex"])
        fields["message_length"] = decoded["message_length_field"]
    return fields


def test_all_32_vectors_are_here():
    assert len(VECTORS) == 32


@pytest.mark.parametrize("vector", VECTORS, ids=_ids(VECTORS))
def test_a_vector_decodes_to_the_recorded_values(vector):
    decoded = vector["decoded"]
    parsed = pdu.parse_pdu(bytes.fromhex(vector["hex"]))
    assert parsed.command_id == int(decoded["command_id"], 16)
    assert pdu.PDUS[parsed.command_id][0] == decoded["name"]
    assert list(parsed.sequence) == decoded["sequence"]
    assert parsed.fields == _fields(decoded)


@pytest.mark.parametrize("vector", VECTORS, ids=_ids(VECTORS))
def test_the_recorded_values_build_the_recorded_bytes(vector):
    decoded = vector["decoded"]
    built = pdu.build_pdu(
        int(decoded["command_id"], 16), tuple(decoded["sequence"]), _fields(decoded)
    )
    assert built.hex() == vector["hex"]


ANSWERED = [vector for vector in VECTORS if vector["decoded"]["name"].endswith("_RESP")]


@pytest.mark.parametrize("vector", ANSWERED, ids=_ids(ANSWERED))
def test_the_answer_to_a_header_is_the_recorded_one(vector):
    """All but SMSGate's UNBIND_RESP with its own time are what we would have answered."""
    decoded = vector["decoded"]
    request = pdu.pack_header(
        20, int(decoded["command_id"], 16) & ~pdu.RESPONSE, *decoded["sequence"]
    )
    assert pdu.build_answer(request, decoded.get("result", 0)).hex() == vector["hex"]


REPORTS = [vector for vector in VECTORS if vector["decoded"]["name"] == "SGIP_REPORT"]


@pytest.mark.parametrize("vector", REPORTS, ids=_ids(REPORTS))
def test_the_flat_parser_agrees_with_the_table(vector):
    frame = bytes.fromhex(vector["hex"])
    parsed = pdu.parse_pdu(frame)
    assert pdu.parse_report(frame) == (
        parsed.octets("submit_sequence").hex(),
        parsed.number("report_type"),
        parsed.text("user_number"),
        parsed.number("state"),
        parsed.number("error_code"),
    )
    assert pdu.parse_report(frame[:-8]) == pdu.parse_report(frame)  # without its Reserve


SUBMITS = [vector for vector in VECTORS if vector["decoded"]["name"] == "SGIP_SUBMIT"]


@pytest.mark.parametrize("vector", SUBMITS, ids=_ids(SUBMITS))
def test_the_carriers_flat_parser_agrees_with_the_table(vector):
    frame = bytes.fromhex(vector["hex"])
    parsed = pdu.parse_pdu(frame)
    source, number, udhi, coding, wants_report, content = parse_submit(frame)
    assert source.decode() == parsed.text("sp_number")
    assert number.decode() == parsed.texts("user_number")[0]
    assert (udhi, coding, wants_report) == tuple(
        parsed.number(name) for name in ("tp_udhi", "message_coding", "report_flag")
    )
    assert content == parsed.octets("content")


SINGLE = [
    vector
    for vector in VECTORS
    if vector["decoded"]["name"] == "SGIP_SUBMIT" and vector["decoded"]["user_count"] == 1
]


@pytest.mark.parametrize("vector", SINGLE, ids=_ids(SINGLE))
def test_the_template_builds_what_smsgate_sent(vector):
    decoded = vector["decoded"]
    look = pdu.SubmitLook(
        **{name: decoded[name] for name in pdu.SubmitLook.__dataclass_fields__ if name in decoded}
    )
    out: list[bytes] = []
    pdu.SubmitTemplate(look).build_into(
        out,
        tuple(decoded["sequence"]),
        sender=decoded["sp_number"],
        number=decoded["user_number"][0],
        coding=decoded["message_coding"],
        has_udh=bool(decoded["tp_udhi"]),
        content=bytes.fromhex(decoded["content_hex"]),
    )
    assert b"".join(out).hex() == vector["hex"]


def test_the_stream_decoder_survives_a_cut_at_every_offset():
    frames = [bytes.fromhex(vector["hex"]) for vector in VECTORS]
    stream = b"".join(frames)
    for cut in range(len(stream) + 1):
        framer = Framer(pdu.HEADER_SIZE, pdu.PDU_MAXIMUM)
        assert framer.feed(stream[:cut]) + framer.feed(stream[cut:]) == frames


def test_the_stream_decoder_survives_single_octets():
    frames = [bytes.fromhex(vector["hex"]) for vector in VECTORS]
    framer = Framer(pdu.HEADER_SIZE, pdu.PDU_MAXIMUM)
    found = []
    for octet in b"".join(frames):
        found += framer.feed(bytes((octet,)))
    assert found == frames
