import pytest

from adapters.cmpp.pdu import Layout
from adapters.cmpp.settings import NumberFormat, parse, validate_2, validate_3
from sms.errors import ConfigError
from tests.support.cmpp import SETTINGS


def test_the_least_is_enough():
    settings = parse("cmpp2", SETTINGS)
    assert settings.layout is Layout.V2
    assert settings.version == 0x20
    assert settings.look.msg_src == "900001"
    assert settings.number_format is NumberFormat.NATIONAL_CN
    assert parse("cmpp3", SETTINGS).layout is Layout.V3


def test_the_secret_is_never_shown():
    assert "888888" not in repr(parse("cmpp2", SETTINGS))


@pytest.mark.parametrize("name", ["host", "port", "source_addr", "shared_secret"])
def test_what_is_missing_is_named(name):
    raw = {key: value for key, value in SETTINGS.items() if key != name}
    [(pointer, detail)] = validate_2(raw)
    assert pointer == f"/{name}"
    assert "is missing" in detail
    with pytest.raises(ConfigError, match=f"/{name}"):
        parse("cmpp2", raw)


@pytest.mark.parametrize("validate", [validate_2, validate_3])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", ""),
        ("port", "7890"),
        ("source_addr", "90000"),  # carriers differ in how they hash a short one
        ("source_addr", 900001),
        ("shared_secret", ""),
        ("version", 0x40),
        ("version", 2.0),
        ("service_id", "x" * 11),
        ("fee_user_type", 4),
        ("fee_type", "1"),
        ("fee_code", "0000000"),
        ("msg_level", 10),
        ("msg_src", "9000011"),
        ("number_format", "roman"),
        ("pk_numbers", 1),
        ("validity_period", "relative"),
        ("content_maximum", 139),
        ("status_classes", {"0": "number"}),
        ("status_classes", {"90": "bad"}),
        ("status_classes", ["90"]),
        ("active_test_s", 0),
        ("response_timeout_s", 1e9),
        ("system_id", "shop"),
    ],
)
def test_a_wrong_or_unknown_setting_is_refused_with_its_pointer(validate, name, value):
    [(pointer, detail)] = validate({**SETTINGS, name: value})
    assert pointer == f"/{name}"
    assert detail


@pytest.mark.parametrize(
    ("validate", "version", "other"), [(validate_2, 0x30, "cmpp3"), (validate_3, 0x20, "cmpp2")]
)
def test_the_version_of_the_other_protocol_is_sent_there(validate, version, other):
    [(_, detail)] = validate({**SETTINGS, "version": version})
    assert f"the protocol is {other}" in detail


def test_a_number_without_quotes_is_told_so():
    [(_, detail)] = validate_2({**SETTINGS, "source_addr": 900001})
    assert "in quotes" in detail


def test_everything_that_is_known_is_taken():
    raw = {
        **SETTINGS,
        "version": 0x21,
        "service_id": "SVC",
        "fee_user_type": 0,
        "fee_type": "02",
        "fee_code": "000010",
        "msg_level": 9,
        "msg_src": "900002",
        "tp_pid": 1,
        "number_format": "plus",
        "pk_numbers": "one",
        "validity_period": "absolute",
        "content_maximum": 160,
        "status_classes": {"90": "number", 91: "throttled"},
        "active_test_s": 30,
        "response_timeout_s": 5.5,
    }
    assert validate_2(raw) == []
    settings = parse("cmpp2", raw)
    assert settings.version == 0x21
    assert settings.number_format is NumberFormat.PLUS
    assert settings.status_classes == {90: "number", 91: "throttled"}
    assert (settings.look.msg_src, settings.look.tp_pid) == ("900002", 1)
    assert not settings.look.has_pk
    assert settings.look.has_valid_time
    assert (settings.active_test_s, settings.response_timeout_s) == (30, 5.5)
