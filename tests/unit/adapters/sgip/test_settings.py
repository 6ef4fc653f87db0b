"""An SGIP channel's settings: what is wrong is named, all of it, with what to do."""

import pytest

from adapters.sgip.settings import NumberFormat, Validity, parse, validate
from sms.errors import ConfigError
from tests.support.sgip import SETTINGS


def test_little_is_enough_and_the_rest_has_the_standards_values():
    own = parse(SETTINGS)
    assert (own.host, own.port, own.login_name, own.node_id) == (
        "127.0.0.1",
        8801,
        "fakename",
        3010012345,
    )
    assert own.look.corp_id == "12345"
    assert own.look.charge_number == "0" * 21
    assert (own.number_format, own.validity_period) == (NumberFormat.E164, Validity.NONE)
    assert own.smg_allow == ()
    assert "1234'" not in repr(own)


def test_the_smgs_login_is_ours_unless_told_otherwise():
    own = parse({**SETTINGS, "smg_allow": ["203.0.113.7", "198.51.100.0/24"]})
    assert (own.smg_login_name, own.smg_password) == ("fakename", "1234")
    assert [str(network) for network in own.smg_allow] == ["203.0.113.7/32", "198.51.100.0/24"]
    other = {"smg_allow": ["203.0.113.7"], "smg_login_name": "smg", "smg_password": "x"}
    own = parse({**SETTINGS, **other})
    assert (own.smg_login_name, own.smg_password) == ("smg", "x")


def test_everything_that_is_missing_is_named():
    assert [pointer for pointer, _ in validate({})] == [
        "/host",
        "/port",
        "/login_name",
        "/password",
        "/node_id",
    ]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("port", 0, "1 to 65535"),
        ("port", "8801", "without quotes"),
        ("login_name", "x" * 17, "16"),
        ("node_id", 301001234, "from 3000000000 to 3999999999"),
        ("node_id", "3010012345", "without quotes"),
        ("corp_id", 12345, "in quotes"),
        ("corp_id", "12a45", "digits"),
        ("corp_id", "1234", "5 digits"),
        ("charge_number", "0" * 22, "21"),
        ("fee_type", 256, "255"),
        ("number_format", "plus", "e164, national_cn"),
        ("validity_period", "relative", "none, absolute"),
        ("content_maximum", 139, "140 to 160"),
        ("status_classes", {"300": "perm_number"}, '"130": perm_number'),
        ("status_classes", {"130": "nonsense"}, "perm_blacklist"),
        ("status_classes", [], "map of codes"),
        ("smg_allow", [], "addresses or networks"),
        ("smg_allow", "203.0.113.7", "addresses or networks"),
        ("smg_allow", ["203.0.113.7/24"], "behind its prefix"),
        ("smg_allow", ["0.0.0.0/0"], "everybody"),
        ("smg_login_name", "smg", "smg_allow"),
        ("smg_password", "x", "smg_allow"),
        ("system_id", "x", "is not a setting of SGIP"),
        ("loginname", "x", "did you mean `login_name`?"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_do(name, value, says):
    [(pointer, detail)] = validate({**SETTINGS, name: value})
    assert pointer == f"/{name}"
    assert says in detail
    with pytest.raises(ConfigError, match=name):
        parse({**SETTINGS, name: value})


def test_codes_may_be_written_as_numbers_or_digits():
    own = parse({**SETTINGS, "status_classes": {130: "freq_limit", "131": "throttled"}})
    assert own.status_classes == {130: "freq_limit", 131: "throttled"}
