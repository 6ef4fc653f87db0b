import pytest

from adapters.smpp.settings import Bind, IdMatch, NumberFormat, parse, validate
from sms.errors import ConfigError
from tests.support.smpp import SETTINGS


def test_the_least_settings_are_enough_and_defaults_are_the_standard_s():
    settings = parse(SETTINGS)
    assert (settings.host, settings.port, settings.interface_version) == ("127.0.0.1", 2775, 0x34)
    assert settings.look.dest_addr_ton == 1
    assert "secret08" not in repr(settings)


@pytest.mark.parametrize("name", ["host", "port", "system_id", "password"])
def test_what_is_missing_is_named(name):
    raw = {key: value for key, value in SETTINGS.items() if key != name}
    assert [pointer for pointer, _ in validate(raw)] == [f"/{name}"]
    with pytest.raises(ConfigError, match=name):
        parse(raw)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 0),
        ("port", "2775"),
        ("port", True),
        ("host", ""),
        ("system_id", "x" * 16),
        ("password", "123456789"),
        ("password", "é"),
        ("system_type", "x" * 13),
        ("bind", "tx"),
        ("bind", "rx"),
        ("bind", "both"),
        ("long_messages", "whole"),
        ("submit_pdu", "data"),
        ("interface_version", 0x33),
        ("source_ton", 256),
        ("dest_npi", -1),
        ("number_format", "roman"),
        ("id_match", "guess"),
        ("validity_period", "absolute"),
        ("status_classes", {"0x401": "bad"}),
        ("status_classes", {"zz": "perm_number"}),
        ("status_classes", {"0x401": "delivered"}),
        ("status_classes", {0: "perm_number"}),
        ("status_classes", {1025: ["ported"]}),
        ("status_classes", []),
        ("enquire_link_s", 0),
        ("response_timeout_s", 1e9),
        ("windwo", 5),
        ("a/b~c", 1),
    ],
)
def test_a_wrong_or_unknown_setting_is_refused_with_its_pointer(name, value):
    [(pointer, detail)] = validate({**SETTINGS, name: value})
    assert pointer == "/" + name.replace("~", "~0").replace("/", "~1")
    assert detail


def test_everything_wrong_is_told_at_once():
    assert len(validate({"port": 0, "bogus": 1})) == 5


def test_everything_that_is_known_is_taken():
    settings = parse(
        {
            **SETTINGS,
            "system_type": "VMS",
            "bind": "trx",
            "interface_version": 0x50,
            "source_ton": 1,
            "source_npi": 1,
            "number_format": "plus",
            "id_match": "hex_decimal",
            "validity_period": "none",
            "gsm7_data_coding": 1,
            "ucs2_data_coding": 0x18,
            "service_type": "CMT",
            "status_classes": {"0x0401": "perm_number", 0x402: "throttled"},
            "enquire_link_s": 30,
            "response_timeout_s": 5.5,
        }
    )
    assert settings.number_format is NumberFormat.PLUS
    assert settings.id_match is IdMatch.HEX_DECIMAL
    assert settings.status_classes == {0x401: "perm_number", 0x402: "throttled"}
    assert settings.look.source_addr_ton == 1
    assert not settings.look.has_validity


PEM = "-----BEGIN CERTIFICATE-----"


@pytest.mark.parametrize(
    ("own", "pointer", "word"),
    [
        ({"tls": "yes"}, "/tls", "true or false"),
        ({"tls": True, "tls_ca": "ca.pem"}, "/tls_ca", "_file"),
        ({"tls": True, "tls_server_name": ""}, "/tls_server_name", "1 to 253"),
        ({"tls_ca": PEM}, "/tls_ca", "tls: true"),
        ({"tls": False, "tls_server_name": "x"}, "/tls_server_name", "tls: true"),
        ({"tls": True, "tls_cert": PEM}, "/tls_cert", "tls_key"),
        ({"tls": True, "tls_key": PEM}, "/tls_key", "tls_cert"),
    ],
)
def test_wrong_settings_of_tls_are_named_with_what_to_do(own, pointer, word):
    [(found, detail)] = validate({**SETTINGS, **own})
    assert found == pointer
    assert word in detail


def test_one_connection_for_both_directions_unless_it_says_a_pair():
    assert parse(SETTINGS).bind is Bind.TRX
    assert parse({**SETTINGS, "bind": "tx+rx"}).bind is Bind.TX_RX
