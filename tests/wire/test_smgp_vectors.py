"""Every recorded SMGP PDU: decoded as recorded, and built back to the same bytes."""

import json
from pathlib import Path

import pytest

from adapters.smgp import pdu
from adapters.smgp.receipt import parse_report
from adapters.wire import Framer
from loadtest.smgp_server import parse_submit

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "smgp.json").read_text("utf-8"))
HEADER_KEYS = {"packet_length", "request_id", "sequence_id", "name"}
DERIVED_KEYS = {
    *("text", "udh_hex", "content_hex", "tlv", "report"),
    *("shared_secret", "authenticator_server_verified"),
}
BINARY = ("authenticator_client", "authenticator_server", "msg_id", "reserve")


def _ids(vectors):
    return [vector["name"] for vector in vectors]


def _fields(decoded):
    fields = {
        name: value for name, value in decoded.items() if name not in HEADER_KEYS | DERIVED_KEYS
    }
    for name in BINARY:
        if name in fields:
            fields[name] = bytes.fromhex(fields[name])
    for name in ("client_version", "server_version"):
        if name in fields:
            fields[name] = int(fields[name], 16)
    if "timestamp" in fields:
        fields["timestamp"] = int(fields["timestamp"])
    if "dest_term_id" in fields and isinstance(fields["dest_term_id"], list):
        fields["dest_term_id"] = tuple(fields["dest_term_id"])
    if "msg_length" in fields:
        fields["content"] = bytes.fromhex(decoded["content_hex"])[: decoded["msg_length"]]
    return fields


def _tlvs(decoded):
    return [
        (int(tlv["tag"], 16), bytes.fromhex(tlv["value_hex"]))
        for tlv in decoded.get("tlv", [])
        if "tag" in tlv
    ]


def test_all_37_vectors_are_here():
    assert len(VECTORS) == 37


@pytest.mark.parametrize("vector", VECTORS, ids=_ids(VECTORS))
def test_a_vector_decodes_to_the_recorded_values(vector):
    decoded = vector["decoded"]
    parsed = pdu.parse_pdu(bytes.fromhex(vector["hex"]))
    assert parsed.request_id == int(decoded["request_id"], 16)
    assert pdu.PDUS[parsed.request_id][0] == decoded["name"]
    assert parsed.sequence == decoded["sequence_id"]
    assert parsed.fields == _fields(decoded)
    assert parsed.tlvs == _tlvs(decoded)


# gosms writes a MsgLength that is 7 too small, so that stray octets stand before the Reserve.
ORDERLY = [vector for vector in VECTORS if vector["name"] != "smgp-gosms-deliver-20"]


@pytest.mark.parametrize("vector", ORDERLY, ids=_ids(ORDERLY))
def test_the_recorded_values_build_the_recorded_bytes(vector):
    decoded = vector["decoded"]
    built = pdu.build_pdu(
        int(decoded["request_id"], 16),
        decoded["sequence_id"],
        _fields(decoded),
        tlvs=_tlvs(decoded),
    )
    assert built.hex() == vector["hex"]


LOGINS = [
    vector
    for vector in VECTORS
    if vector["decoded"]["name"] == "Login"
    and not vector["decoded"]["shared_secret"].startswith("(")
]


@pytest.mark.parametrize("vector", LOGINS, ids=_ids(LOGINS))
def test_the_authenticator_is_the_recorded_one(vector):
    decoded = vector["decoded"]
    stamp = int(decoded["timestamp"])
    proof = pdu.authenticator(decoded["client_id"], decoded["shared_secret"], stamp)
    assert proof.hex() == decoded["authenticator_client"]
    padded = pdu.authenticator(
        decoded["client_id"], decoded["shared_secret"], stamp, is_padded=True
    )
    assert padded == proof  # an id of 8 characters


def test_a_short_id_is_hashed_as_it_is_or_padded():
    plain = pdu.authenticator("sp1", "secret", 301000000)
    assert pdu.authenticator("sp1", "secret", 301000000, is_padded=True) != plain
    # the timestamp has ten digits, the leading zero too
    assert pdu.authenticator("sp1", "secret", 1301000000) != plain


ANSWERS = [vector for vector in VECTORS if vector["decoded"]["name"] == "Submit_Resp"]


@pytest.mark.parametrize("vector", ANSWERS, ids=_ids(ANSWERS))
def test_the_flat_answer_agrees_with_the_table(vector):
    decoded = vector["decoded"]
    found = pdu.parse_submit_resp(bytes.fromhex(vector["hex"]))
    assert found == (decoded["msg_id"], decoded["status"])


DELIVERS = [vector for vector in VECTORS if vector["decoded"]["name"] == "Deliver"]


@pytest.mark.parametrize("vector", DELIVERS, ids=_ids(DELIVERS))
def test_the_flat_deliver_agrees_with_the_table(vector):
    frame = bytes.fromhex(vector["hex"])
    parsed = pdu.parse_pdu(frame)
    msg_id, is_report, msg_format, source, to, content, tail = pdu.parse_deliver(frame)
    assert (msg_id, content) == (parsed.octets("msg_id"), parsed.octets("content"))
    assert (is_report, msg_format) == (parsed.number("is_report"), parsed.number("msg_format"))
    assert (source, to) == (parsed.text("src_term_id"), parsed.text("dest_term_id"))
    assert tail == 89 + len(content)
    answer = pdu.build_deliver_resp(parsed.sequence, msg_id, 0)
    assert pdu.parse_pdu(answer).fields == {"msg_id": msg_id, "status": 0}


REPORTS = [vector for vector in DELIVERS if vector["decoded"]["is_report"]]


@pytest.mark.parametrize("vector", REPORTS, ids=_ids(REPORTS))
def test_the_report_in_the_body_is_the_recorded_one(vector):
    report = vector["decoded"]["report"]
    msg_id, _, _, _, _, content, _ = pdu.parse_deliver(bytes.fromhex(vector["hex"]))
    assert parse_report(content, msg_id) == (report["id"], report["stat"], report["err"])


SUBMITS = [vector for vector in VECTORS if vector["decoded"]["name"] == "Submit"]


@pytest.mark.parametrize("vector", SUBMITS, ids=_ids(SUBMITS))
def test_the_carriers_flat_parser_agrees_with_the_table(vector):
    frame = bytes.fromhex(vector["hex"])
    parsed = pdu.parse_pdu(frame)
    source, number, udhi, coding, wants_report, content = parse_submit(frame)
    assert source.decode() == parsed.text("src_term_id")
    assert number.decode() == parsed.texts("dest_term_id")[0]
    assert udhi == (parsed.tlv(pdu.TLV_TP_UDHI) == b"\1")
    assert (coding, wants_report) == (parsed.number("msg_format"), parsed.number("need_report"))
    assert content == parsed.octets("content")


SINGLE = [
    vector
    for vector in VECTORS
    if vector["decoded"]["name"] == "Submit" and vector["name"].startswith("smgp-smsgate")
]


@pytest.mark.parametrize("vector", SINGLE, ids=_ids(SINGLE))
def test_the_template_builds_what_smsgate_sent(vector):
    """SMSGate adds TLVs that nobody asks for; all but those are the same octets."""
    frame = bytes.fromhex(vector["hex"])
    decoded = vector["decoded"]
    look = pdu.SubmitLook(
        **{name: decoded[name] for name in pdu.SubmitLook.__dataclass_fields__ if name in decoded}
    )
    tlvs = dict(_tlvs(decoded))
    out: list[bytes] = []
    pdu.SubmitTemplate(look).build_into(
        out,
        decoded["sequence_id"],
        sender=decoded["src_term_id"],
        number=decoded["dest_term_id"][0],
        msg_format=decoded["msg_format"],
        content=bytes.fromhex(decoded["content_hex"]),
        has_udh=tlvs[pdu.TLV_TP_UDHI] == b"\1",
        part=tlvs[pdu.TLV_PK_NUMBER][0],
        parts=tlvs[pdu.TLV_PK_TOTAL][0],
    )
    built = b"".join(out)
    fixed = 126 + 21 + decoded["msg_length"]
    assert built[4:fixed] == frame[4:fixed]
    mine = pdu.parse_pdu(built).tlvs
    assert mine == [tlv for tlv in _tlvs(decoded) if tlv[0] in dict(mine)]
    assert len(mine) == 4


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
