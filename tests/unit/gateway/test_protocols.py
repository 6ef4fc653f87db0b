"""A protocol is more than its line in the registry: what stands beside it has one, too."""

import re
from pathlib import Path

import pytest

from gateway.document import LATER_PROTOCOLS, Surroundings, check_document
from gateway.protocols import PROTOCOLS
from loadtest.carrier import SIDES
from loadtest.wirebench import BENCHES
from tests.support.certificates import Authority
from tests.support.wire_rig import SPOKEN
from webhooks.address import AllowList


def test_every_protocol_has_a_simulated_carrier_a_bench_and_a_rig():
    assert set(SIDES) == set(BENCHES) == set(SPOKEN) == set(PROTOCOLS)


def test_what_is_there_is_not_told_to_come_later():
    assert not set(PROTOCOLS) & set(LATER_PROTOCOLS)


def test_each_checks_its_settings_and_names_the_login():
    for name, protocol in PROTOCOLS.items():
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
