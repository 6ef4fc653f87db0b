"""Every recorded SMPP PDU: decoded as tshark and smpp34 decode it, built back where we send it."""

import json
from pathlib import Path

import pytest

from adapters.smpp import pdu
from adapters.smpp.receipt import parse_receipt, parse_text, parse_usual_receipt
from adapters.smpp.template import DataTemplate, SubmitLook, SubmitTemplate
from adapters.wire import Framer, parse_tlvs
from sms.model import Encoding, Submit
from tests.support.smpp import a_message

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "smpp.json").read_text("utf-8"))
HEADER_KEYS = {"command_length", "command_id", "command_status", "sequence_number", "name"}
DERIVED_KEYS = {"sm_length", "text", "udh_hex", "short_message_hex", "tlv"}
BY_NAME = {vector["name"]: vector for vector in VECTORS}


def _ids(vectors):
    return [vector["name"] for vector in vectors]


def _fields(decoded):
    fields = {
        name: value for name, value in decoded.items() if name not in HEADER_KEYS | DERIVED_KEYS
    }
    if "interface_version" in fields:
        fields["interface_version"] = int(fields["interface_version"], 16)
    if "sm_length" in decoded:
        fields["short_message"] = bytes.fromhex(decoded.get("short_message_hex", ""))
    return fields


def _tlvs(decoded):
    return [
        (int(tlv["tag"], 16), bytes.fromhex(tlv["value_hex"])) for tlv in decoded.get("tlv", [])
    ]


def test_all_87_vectors_are_here():
    assert len(VECTORS) == 87


@pytest.mark.parametrize("vector", VECTORS, ids=_ids(VECTORS))
def test_a_vector_decodes_to_the_recorded_values(vector):
    decoded = vector["decoded"]
    parsed = pdu.parse_pdu(bytes.fromhex(vector["hex"]))
    assert parsed.command_id == int(decoded["command_id"], 16)
    assert pdu.PDUS[parsed.command_id][0] == decoded["name"]
    assert parsed.status == int(decoded["command_status"], 16)
    assert parsed.sequence == decoded["sequence_number"]
    assert parsed.fields == _fields(decoded)
    assert parsed.tlvs == _tlvs(decoded)


# smscsim writes a service_type of 7 octets, which we read and never write.
ORDERLY = [vector for vector in VECTORS if vector["decoded"].get("service_type") != "smscsim"]


@pytest.mark.parametrize("vector", ORDERLY, ids=_ids(ORDERLY))
def test_the_recorded_values_build_the_recorded_bytes(vector):
    decoded = vector["decoded"]
    built = pdu.build_pdu(
        int(decoded["command_id"], 16),
        decoded["sequence_number"],
        _fields(decoded) or None,
        status=int(decoded["command_status"], 16),
        tlvs=_tlvs(decoded),
    )
    assert built.hex() == vector["hex"]


SHORTS = [vector for vector in VECTORS if vector["decoded"]["name"] in ("submit_sm", "deliver_sm")]


@pytest.mark.parametrize("vector", SHORTS, ids=_ids(SHORTS))
def test_the_flat_parser_agrees_with_the_table(vector):
    frame = bytes.fromhex(vector["hex"])
    parsed = pdu.parse_pdu(frame)
    source, destination, esm_class, registered, data_coding, body, tlvs = pdu.parse_short(frame)
    assert source.decode() == parsed.text("source_addr")
    assert destination.decode() == parsed.text("destination_addr")
    assert (esm_class, registered, data_coding) == tuple(
        parsed.number(name) for name in ("esm_class", "registered_delivery", "data_coding")
    )
    assert body == parsed.octets("short_message")
    assert parse_tlvs(frame, tlvs) == parsed.tlvs


TEXTS = [vector for vector in SHORTS if "udh_hex" in vector["decoded"]]


@pytest.mark.parametrize("vector", TEXTS, ids=_ids(TEXTS))
def test_the_header_is_taken_off_the_text(vector):
    frame = bytes.fromhex(vector["hex"])
    text = parse_text(frame, pdu.parse_short(frame))[0]
    assert text == vector["decoded"].get("text", text)
    assert len(text) > 0


# Kannel's esm_class (store and forward) and its intermediate notices are none of our settings.
OURS = [
    vector
    for vector in VECTORS
    if vector["decoded"]["name"] in ("submit_sm", "data_sm") and "kannel" not in vector["name"]
]
HOUR = "000000010000000R"


def _look(vector, **own):
    decoded = vector["decoded"]
    coding = decoded["data_coding"]
    tags = {tag for tag, _ in _tlvs(decoded)}
    return SubmitLook(
        service_type=decoded.get("service_type", ""),
        source_addr_ton=decoded["source_addr_ton"],
        source_addr_npi=decoded["source_addr_npi"],
        dest_addr_ton=decoded["dest_addr_ton"],
        dest_addr_npi=decoded["dest_addr_npi"],
        gsm7_data_coding=coding,
        registered_delivery=decoded["registered_delivery"],
        has_validity=decoded.get("validity_period") == HOUR,
        is_sar=pdu.TLV_SAR_REFERENCE in tags,
        is_data=decoded["name"] == "data_sm",
        **own,
    )


def _submit(vector):
    """What the gateway would hand to a session for it."""
    decoded, tlvs = vector["decoded"], dict(_tlvs(vector["decoded"]))
    payload = bytes.fromhex(decoded.get("short_message_hex", ""))
    has_udh = bool(decoded["esm_class"] & 0x40)
    if pdu.TLV_SAR_REFERENCE in tlvs:
        tags = (pdu.TLV_SAR_REFERENCE, pdu.TLV_SAR_TOTAL, pdu.TLV_SAR_NUMBER)
        payload = bytes((6, 8, 4)) + b"".join(tlvs[tag] for tag in tags) + payload
        has_udh = True
    elif pdu.TLV_MESSAGE_PAYLOAD in tlvs:
        payload = tlvs[pdu.TLV_MESSAGE_PAYLOAD]
    encoding = Encoding.UCS2 if decoded["data_coding"] == 8 else Encoding.GSM7
    number, sender = decoded["destination_addr"], decoded["source_addr"]
    submit = Submit(a_message(), 0, 1, number, sender, encoding, payload, has_udh, validity_s=3600)
    if pdu.TLV_MESSAGE_PAYLOAD in tlvs:
        submit.parts = (submit,)  # a text that leaves whole
    return submit


@pytest.mark.parametrize("vector", OURS, ids=_ids(OURS))
def test_our_templates_build_what_others_sent(vector):
    look = _look(vector)
    out: list[bytes] = []
    kind = DataTemplate if look.is_data else SubmitTemplate
    kind(look).build_into(out, vector["decoded"]["sequence_number"], _submit(vector))
    assert b"".join(out).hex() == vector["hex"]


RECEIPTS = [
    vector
    for vector in SHORTS
    if vector["decoded"]["name"] == "deliver_sm" and vector["decoded"]["esm_class"] & 0x3C == 4
]


@pytest.mark.parametrize("vector", RECEIPTS, ids=_ids(RECEIPTS))
def test_both_receipt_parsers_read_every_recorded_report(vector):
    frame = bytes.fromhex(vector["hex"])
    decoded = vector["decoded"]
    patient = parse_receipt(frame, pdu.parse_short(frame))
    words = decoded["text"].split()
    assert patient == (
        words[0].removeprefix("id:"),
        next(word for word in words if word.startswith("stat:"))[5:],
        next(word for word in words if word.startswith("err:"))[4:],
    )
    usual = parse_usual_receipt(frame)
    assert usual == (decoded["source_addr"], *patient)


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


@pytest.mark.parametrize("vector", VECTORS, ids=_ids(VECTORS))
def test_one_pdu_is_whole_wherever_it_is_split(vector):
    frame = bytes.fromhex(vector["hex"])
    for cut in range(1, len(frame)):
        framer = Framer(pdu.HEADER_SIZE, pdu.PDU_MAXIMUM)
        assert framer.feed(frame[:cut]) == []
        assert framer.feed(frame[cut:]) == [frame]
