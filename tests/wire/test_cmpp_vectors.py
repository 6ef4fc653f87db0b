"""Every recorded CMPP PDU: decoded as its recorder decoded it, built back to the same bytes."""

import json
from pathlib import Path

import pytest

from adapters.cmpp import pdu
from adapters.cmpp.auth import authenticator_source, authenticators_ismg
from adapters.cmpp.pdu import HEADER_SIZE, PDU_MAXIMUM, Layout, SubmitLook, SubmitTemplate
from adapters.cmpp.report import parse_report
from adapters.mainland import text_of
from adapters.wire import Framer
from loadtest.cmpp_server import parse_submit
from sms.concatenation import split_header
from sms.model import Carrier, Encoding, Message, MessageClass, Submit

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cmpp.json").read_text("utf-8"))
LAYOUTS = {"cmpp20": Layout.V2, "cmpp30": Layout.V3}
HEADER_KEYS = {"total_length", "command_id", "sequence_id", "name"}
DERIVED_KEYS = {
    *("dest_usr_tl", "msg_length", "content_hex", "text", "udh_hex", "report", "msg_id_fields"),
    *("shared_secret", "authenticator_ismg_verified_with"),
}
HEXADECIMAL = {"msg_id", "authenticator_source", "authenticator_ismg", "reserve"}


def ids(vectors):
    return [vector["name"] for vector in vectors]


def fields_of(decoded):
    fields = {
        name: bytes.fromhex(value) if name in HEXADECIMAL else value
        for name, value in decoded.items()
        if name not in HEADER_KEYS | DERIVED_KEYS
    }
    if "version" in fields:
        fields["version"] = int(fields["version"], 16)
    if "timestamp" in fields:
        fields["timestamp"] = int(fields["timestamp"])
    if "msg_length" in decoded:
        fields["content"] = bytes.fromhex(decoded["content_hex"])
    return fields


def of(name):
    return [vector for vector in VECTORS if vector["decoded"]["name"] == name]


def test_all_87_vectors_are_here():
    assert len(VECTORS) == 87


@pytest.mark.parametrize("vector", VECTORS, ids=ids(VECTORS))
def test_a_vector_decodes_to_the_recorded_values(vector):
    decoded = vector["decoded"]
    layout = LAYOUTS[vector["protocol"]]
    parsed = pdu.parse_pdu(bytes.fromhex(vector["hex"]), layout)
    assert parsed.command_id == int(decoded["command_id"], 16)
    assert pdu.PDUS[layout][parsed.command_id][0] == decoded["name"]
    assert parsed.sequence == decoded["sequence_id"]
    assert parsed.fields == fields_of(decoded)


@pytest.mark.parametrize("vector", VECTORS, ids=ids(VECTORS))
def test_the_recorded_values_build_the_recorded_bytes(vector):
    decoded = vector["decoded"]
    built = pdu.build_pdu(
        int(decoded["command_id"], 16),
        decoded["sequence_id"],
        fields_of(decoded),
        LAYOUTS[vector["protocol"]],
    )
    assert built.hex() == vector["hex"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_stream_of_a_version_may_be_cut_at_every_octet(layout):
    frames = [bytes.fromhex(one["hex"]) for one in VECTORS if one["protocol"] == layout]
    stream = b"".join(frames)
    for cut in range(len(stream) + 1):
        framer = Framer(HEADER_SIZE, PDU_MAXIMUM)
        assert framer.feed(stream[:cut]) + framer.feed(stream[cut:]) == frames
        assert framer.error is None
    framer = Framer(HEADER_SIZE, PDU_MAXIMUM)
    assert [one for octet in stream for one in framer.feed(bytes((octet,)))] == frames


CONNECTS = [one for one in of("CMPP_CONNECT") if "wrong" not in one["decoded"]["shared_secret"]]


@pytest.mark.parametrize("vector", CONNECTS, ids=ids(CONNECTS))
def test_the_login_hash_is_the_one_of_every_implementation(vector):
    decoded = vector["decoded"]
    proof = authenticator_source(
        decoded["source_addr"], decoded["shared_secret"], int(decoded["timestamp"])
    )
    assert proof.hex() == decoded["authenticator_source"]


ANSWERS = of("CMPP_CONNECT_RESP")


def test_the_carriers_hash_is_known_in_some_implementations_and_in_others_in_no_form():
    known = []
    for vector in ANSWERS:
        decoded = vector["decoded"]
        source = (
            next(
                one["decoded"]["authenticator_source"]
                for one in CONNECTS
                if one["session"] == vector["session"]
            )
            if any(one["session"] == vector["session"] for one in CONNECTS)
            else "00" * 16
        )
        forms = authenticators_ismg(decoded["status"], bytes.fromhex(source), "888888")
        is_known = bytes.fromhex(decoded["authenticator_ismg"]) in forms
        known.append((vector["name"], is_known))
    assert {True, False} == {is_known for _, is_known in known}


DELIVERS = of("CMPP_DELIVER")


@pytest.mark.parametrize("vector", DELIVERS, ids=ids(DELIVERS))
def test_the_flat_parser_agrees_with_the_table(vector):
    layout = LAYOUTS[vector["protocol"]]
    frame = bytes.fromhex(vector["hex"])
    parsed = pdu.parse_pdu(frame, layout)
    msg_id, dest, udhi, fmt, source, registered, content = pdu.parse_deliver(frame, layout)
    assert msg_id == parsed.octets("msg_id")
    assert pdu.unpad(dest) == parsed.text("dest_id")
    assert pdu.unpad(source) == parsed.text("src_terminal_id")
    assert (udhi, fmt, registered) == tuple(
        parsed.number(name) for name in ("tp_udhi", "msg_fmt", "registered_delivery")
    )
    assert content == parsed.octets("content")


EVERY_SUBMIT = of("CMPP_SUBMIT")


@pytest.mark.parametrize("vector", EVERY_SUBMIT, ids=ids(EVERY_SUBMIT))
def test_the_carrier_s_flat_parser_agrees_with_the_table(vector):
    layout = LAYOUTS[vector["protocol"]]
    frame = bytes.fromhex(vector["hex"])
    parsed = pdu.parse_pdu(frame, layout)
    source, number, udhi, fmt, registered, content = parse_submit(frame, layout)
    assert source.decode() == parsed.text("src_id")
    assert number.decode() == parsed.texts("dest_terminal_id")[0]
    assert (udhi, fmt, registered) == tuple(
        parsed.number(name) for name in ("tp_udhi", "msg_fmt", "registered_delivery")
    )
    assert content == parsed.octets("content")


REPORTS = [vector for vector in DELIVERS if "report" in vector["decoded"]]


def test_there_are_reports_of_60_octets_in_both_versions_and_of_71_in_3_0():
    sizes = {(one["protocol"], one["decoded"]["msg_length"]) for one in REPORTS}
    assert sizes == {("cmpp20", 60), ("cmpp30", 60), ("cmpp30", 71)}


@pytest.mark.parametrize("vector", REPORTS, ids=ids(REPORTS))
def test_every_recorded_report_gives_its_id_its_word_and_its_number(vector):
    report = vector["decoded"]["report"]
    assert parse_report(bytes.fromhex(vector["decoded"]["content_hex"])) == (
        report["msg_id"],
        report["stat"],
        f"86{report['dest_terminal_id']}",
    )


TEXTS = [vector for vector in DELIVERS if "text" in vector["decoded"]]


@pytest.mark.parametrize("vector", TEXTS, ids=ids(TEXTS))
def test_every_recorded_text_is_read(vector):
    decoded = vector["decoded"]
    content = bytes.fromhex(decoded["content_hex"])
    body = split_header(content)[1] if decoded["tp_udhi"] else content
    assert text_of(decoded["msg_fmt"], body) == decoded["text"]


# What pycmpp and cmppy submit is laid out as we do it, but for TP_pId 1 in pycmpp's long ones.
SUBMITS = [
    vector
    for vector in of("CMPP_SUBMIT")
    if ("pycmpp" in vector["name"] or "cmppy" in vector["name"]) and "text" in vector["decoded"]
]


def test_there_are_submits_of_one_and_of_several_segments():
    assert {one["decoded"]["pk_total"] for one in SUBMITS} == {1, 3}


@pytest.mark.parametrize("vector", SUBMITS, ids=ids(SUBMITS))
def test_the_template_builds_what_others_sent(vector):
    decoded = vector["decoded"]
    layout = LAYOUTS[vector["protocol"]]
    message = Message(
        *(1, 1, MessageClass.OTP, "1", Carrier.CM, 86, Encoding.UCS2, ("x",)),
        valid_until=0,
        created_at=0,
    )
    [number] = decoded["dest_terminal_id"]
    submit = Submit(
        message,
        decoded["pk_number"] - 1,
        decoded["pk_total"],
        number,
        decoded["src_id"],
        Encoding.UCS2,
        bytes.fromhex(decoded["content_hex"]),
        bool(decoded["tp_udhi"]),
        validity_s=60,
    )
    look = SubmitLook(
        msg_src=decoded["msg_src"],
        service_id=decoded["service_id"],
        fee_user_type=decoded["fee_user_type"],
        fee_type=decoded["fee_type"],
        fee_code=decoded["fee_code"],
        msg_level=decoded["msg_level"],
        tp_pid=decoded["tp_pid"],
    )
    out: list[bytes] = []
    SubmitTemplate(look, layout).build_into(out, decoded["sequence_id"], submit)
    assert b"".join(out).hex() == vector["hex"]
