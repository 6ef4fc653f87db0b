"""An SMGP channel's settings: what is wrong is named, all of it, with what to do."""

import pytest

from adapters.smgp.settings import Connections, NumberFormat, parse, validate
from sms.errors import ConfigError
from tests.support.smgp import SETTINGS


def test_little_is_enough_and_the_rest_has_the_standards_values():
    own = parse(SETTINGS)
    assert (own.port, own.client_version, own.directions) == (8890, 0x30, Connections.ONE)
    assert own.number_format is NumberFormat.NATIONAL_CN
    assert own.look.msg_src == "10690001"
    assert (own.look.fee_type, own.look.fee_code) == ("00", "000000")
    assert "888888" not in repr(own)


def test_everything_that_is_missing_is_named():
    assert [pointer for pointer, _ in validate({})] == [
        "/host",
        "/port",
        "/client_id",
        "/shared_secret",
    ]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("client_id", "123456789", "8"),
        ("client_id", 10690001, "in quotes"),
        ("shared_secret", "x" * 16, "15"),
        ("client_version", 0x34, "48, 32, 19"),
        ("directions", "trx", "both, separate"),
        ("pad_client_id", "yes", "true or false"),
        ("fee_type", "0", "2 digits"),
        ("fee_type", 0, "in quotes"),
        ("priority", 4, "0 to 3"),
        ("m_service_id", "x" * 22, "21"),
        ("active_test_s", 0, "1 to 3600"),
        ("status_classes", {"-1": "perm_number"}, "map of codes"),
        ("password", "x", "is not a setting of SMGP"),
        ("login_mode", 2, "is not a setting of SMGP"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_do(name, value, says):
    [(pointer, detail)] = validate({**SETTINGS, name: value})
    assert pointer == f"/{name}"
    assert says in detail
    with pytest.raises(ConfigError, match=name):
        parse({**SETTINGS, name: value})
