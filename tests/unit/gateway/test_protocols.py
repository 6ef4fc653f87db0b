"""A protocol is more than its line in the registry: what stands beside it has one, too."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.mainland import CONTENT_MAXIMUM
from gateway.document import Surroundings, check_document
from gateway.protocols import PROTOCOLS, WIRE
from loadtest.carrier import SIDES
from loadtest.wirebench import BENCHES
from sms.model import Encoding
from sms.segmentation import Segmentation, payload, segment
from store.objects import StoredObject
from store.snapshot import _channel
from tests.support.certificates import Authority
from tests.support.wire_rig import SPOKEN
from webhooks.address import AllowList


def test_every_wire_protocol_has_a_simulated_carrier_a_bench_and_a_rig():
    assert set(SIDES) == set(BENCHES) == set(SPOKEN) == set(WIRE)


def test_each_checks_its_settings_and_names_the_login():
    for name, protocol in WIRE.items():
        pointers = {pointer for pointer, _ in protocol.validate({})}
        assert {"/host", "/port", f"/{protocol.login}"} <= pointers, name


def complaints_of(tmp_path, *channels: str) -> dict[str, str]:
    """What is wrong with a file of these channels: pointer to what to do."""
    text = "channels:\n" + "".join(f"  - {channel}\n" for channel in channels)
    _, wrong = check_document(text, Surroundings(tmp_path, {}, PROTOCOLS, AllowList()))
    return {one.pointer: one.detail for one in wrong}


CMPP = 'host: 127.0.0.1, port: 7890, source_addr: "900001", shared_secret: s3cret'


@pytest.mark.parametrize("protocol", ["cmpp2", "cmpp3"])
def test_a_cmpp_channel_passes_the_door(tmp_path, protocol):
    assert complaints_of(tmp_path, f"{{name: a, protocol: {protocol}, {CMPP}, window: 16}}") == {}


def test_a_wrong_cmpp_setting_is_named_with_its_remedy(tmp_path):
    wrong = complaints_of(
        tmp_path,
        "{name: a, protocol: cmpp2, host: h, port: 7890, source_addr: 900001, version: 0x30,"
        " shared_secret_file: missing.secret, servce_id: X}",
    )
    assert "in quotes" in wrong["/channels/0/source_addr"]
    assert "the protocol is cmpp3" in wrong["/channels/0/version"]
    assert "write the secret into it" in wrong["/channels/0/shared_secret_file"]
    assert "did you mean `service_id`?" in wrong["/channels/0/servce_id"]


def test_a_name_of_another_protocol_is_not_taken_for_a_slip_of_the_pen(tmp_path):
    wrong = complaints_of(
        tmp_path,
        f"{{name: a, protocol: sgip, {SGIP}, bind: trx}}",
        '{name: b, protocol: smpp, host: h, port: 1, system_id: s, password: "1", source_addr: x}',
    )
    for detail in wrong["/channels/0/bind"], wrong["/channels/1/source_addr"]:
        assert detail.startswith("is not a setting of")
        assert "did you mean" not in detail


@pytest.mark.parametrize("setting", ["tls_ca", "password"])
def test_a_file_that_is_missing_is_told_once(tmp_path, setting):
    password = "" if setting == "password" else ' password: "1",'
    wrong = complaints_of(
        tmp_path,
        f"{{name: a, protocol: smpp, host: h, port: 1, system_id: s,{password} tls: true,"
        f" {setting}_file: missing.pem}}",
    )
    assert list(wrong) == [f"/channels/0/{setting}_file"]
    (detail,) = wrong.values()
    assert ("secret" in detail) == (setting == "password")
    assert ("PEM" in detail) == (setting == "tls_ca")


def test_one_account_is_one_channel_whatever_its_version(tmp_path):
    wrong = complaints_of(
        tmp_path, f"{{name: a, protocol: cmpp2, {CMPP}}}", f"{{name: b, protocol: cmpp3, {CMPP}}}"
    )
    assert "is the account of channel a too" in wrong["/channels/1/source_addr"]


SGIP = "host: 127.0.0.1, port: 8801, login_name: shop, password: s3cret, node_id: 3010012345"
SMGP = "host: 127.0.0.1, port: 8890, client_id: shop, shared_secret: s3cret"


@pytest.mark.parametrize(
    "channel",
    [
        f"{{name: a, protocol: sgip, {SGIP}}}",
        f"{{name: a, protocol: sgip, {SGIP}, smg_allow: [203.0.113.7], smg_password: other}}",
        f"{{name: a, protocol: smgp, {SMGP}, directions: separate}}",
    ],
)
def test_sgip_and_smgp_channels_pass_the_door(tmp_path, channel):
    assert complaints_of(tmp_path, channel) == {}


def test_a_wrong_sgip_setting_is_named_with_its_remedy(tmp_path):
    wrong = complaints_of(
        tmp_path,
        f"{{name: a, protocol: sgip, {SGIP}, corp_id: 12345, smg_allow: [0.0.0.0/0],"
        " smg_password_file: missing.secret}",
    )
    assert "in quotes" in wrong["/channels/0/corp_id"]
    assert "everybody" in wrong["/channels/0/smg_allow"]
    assert "write the secret into it" in wrong["/channels/0/smg_password_file"]


def test_the_examples_of_the_page_on_carriers_pass_the_door(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "carriers.md").read_text("utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert examples
    for example in examples:
        for setting, name in re.findall(r"(\w+)_file: ([^\s,]+)", example):
            content = Authority().cert if setting == "tls_ca" else "s3cret\n"
            (tmp_path / name).write_text(content)
        _, wrong = check_document(example, Surroundings(tmp_path, {}, PROTOCOLS, AllowList()))
        assert wrong == []


SMPP = "host: 127.0.0.1, port: 3550, system_id: shop, password: s3cret, tls: true"


def test_certificates_of_an_smpp_channel_stand_in_files_beside_the_document(tmp_path):
    authority = Authority()
    (tmp_path / "ca.pem").write_text(authority.cert)
    authority.issue("shop").file(tmp_path / "own.pem")
    files = "tls_ca_file: ca.pem, tls_cert_file: own.pem, tls_key_file: own.pem"
    assert complaints_of(tmp_path, f"{{name: a, protocol: smpp, {SMPP}, {files}}}") == {}


def test_a_certificate_that_cannot_be_read_is_named_before_anything_is_changed(tmp_path):
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA")
    (tmp_path / "big.pem").write_text("-----BEGIN CERTIFICATE-----\n" + "A" * 70_000)
    for file, where, word in (
        ("ca.pem", "/channels/0/tls_ca", "no certificate"),
        ("big.pem", "/channels/0/tls_ca_file", "65536"),
    ):
        wrong = complaints_of(tmp_path, f"{{name: a, protocol: smpp, {SMPP}, tls_ca_file: {file}}}")
        assert word in wrong[where]


@pytest.mark.parametrize("protocol", ["cmpp2", "cmpp3"])
def test_gsm7_is_refused_where_no_septets_are_packed(tmp_path, protocol):
    channel = f"{{name: a, protocol: {protocol}, {CMPP}, encodings: [gsm7, ucs2]}}"
    wrong = complaints_of(tmp_path, channel)
    assert list(wrong) == ["/channels/0/encodings"]
    assert "remove `encodings`" in wrong["/channels/0/encodings"]
    assert complaints_of(tmp_path, channel.replace("gsm7, ", "")) == {}


@pytest.mark.parametrize("protocol", ["cmpp2", "cmpp3", "sgip", "smgp"])
@given(text=st.text(st.sampled_from("aé€@[ ~ñ"), min_size=1, max_size=400))
def test_what_is_cut_for_a_mainland_channel_fits_its_segments(protocol, text):
    """The 202 said so many segments: none may be too long for the PDU."""
    stored = StoredObject(7, 1, {"protocol": protocol}, {}, "channel", "a")
    assert _channel(stored, {}).encodings == {Encoding.UCS2}
    cut = segment(text, "ucs2")
    assert isinstance(cut, Segmentation)
    for index in range(len(cut.texts)):
        assert len(payload(cut.texts, index, cut.encoding, 7)[0]) <= CONTENT_MAXIMUM


@pytest.mark.parametrize(
    ("name", "allow", "is_same"),
    [
        ("smg", "[203.0.113.7, 198.51.100.0/24]", True),
        ("smg", "[198.51.100.9]", True),
        ("smg", "['2001:db8::/32', 192.0.2.1]", False),
        ("other", "[203.0.113.7]", False),
    ],
)
def test_an_smg_s_login_names_one_channel(tmp_path, name, allow, is_same):
    """Else the reports of the second would all be told as the first one's."""
    one = SGIP.replace("shop", "shop1") + ", smg_login_name: smg"
    other = SGIP.replace("shop", "shop2") + f", smg_login_name: {name}, smg_allow: {allow}"
    wrong = complaints_of(
        tmp_path,
        f"{{name: a, protocol: sgip, {one}, smg_allow: [203.0.113.7, 198.51.100.0/24]}}",
        f"{{name: b, protocol: sgip, {other}}}",
    )
    assert list(wrong) == (["/channels/1/smg_login_name"] if is_same else [])
    assert "channel a" in wrong.get("/channels/1/smg_login_name", "channel a")


@pytest.mark.parametrize("value", ["[1]", "{a: 1}", "[[203.0.113.7]]", "null", "1.5"])
@pytest.mark.parametrize(
    ("protocol", "settings"),
    [
        ("cmpp3", CMPP),
        ("sgip", f"{SGIP}, smg_allow: [203.0.113.7]"),
        ("smgp", SMGP),
        ("smpp", SMPP),
    ],
)
def test_a_setting_of_any_shape_is_named_and_never_ends_the_check(
    tmp_path, protocol, settings, value
):
    parts = dict(part.split(": ", 1) for part in settings.split(", "))
    for name in parts:
        wrong = ", ".join(f"{key}: {value if key == name else parts[key]}" for key in parts)
        found = complaints_of(
            tmp_path, f"{{name: a, protocol: {protocol}, {wrong}}}", f"{{name: b, {settings}}}"
        )
        assert [pointer for pointer in found if pointer.startswith(f"/channels/0/{name}")], name
