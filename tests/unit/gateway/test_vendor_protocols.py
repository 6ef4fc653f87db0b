"""A vendor over HTTP as a protocol of channels: at the door of a configuration file, and behind."""

import json

import pytest

from adapters.checks import string
from adapters.http import settings
from adapters.http.channel import HttpChannel
from adapters.http.vendor import Traits
from adapters.http.vendors import VENDORS, VendorKind
from adapters.session import SessionPolicy
from gateway.document import Surroundings, check_document
from gateway.protocols import PROTOCOLS, over_http
from sms import config
from sms.model import Encoding
from tests.support.certificates import Authority
from tests.support.http_rig import FakeVendor
from tests.support.smpp import FakeSink
from webhooks.address import AllowList

OWN = {"account": string(1, 20, "the test"), "api_key": string(1, 20, "the test")}
SIGNED = Traits(inherent={"adds_signature": True})
CHANNEL = {
    "name": "cloud-a",
    "protocol": "cloud",
    "account": "a1",
    "api_key": "k3y-of-ours",
    "callback_secret": "0123456789abcdef",
}


def kind_of(traits=SIGNED, login="account"):
    return VendorKind(
        lambda raw: settings.find_wrong(raw, OWN, tuple(OWN), "a cloud channel"),
        lambda channel: FakeVendor("https://api.example.com", traits),
        login,
    )


def checked(folder, *channels, kind=None):
    """What the file wants, and what is wrong with it by pointer."""
    text = json.dumps({"channels": [{**CHANNEL, **channel} for channel in channels]})
    protocols = {**PROTOCOLS, "cloud": over_http("cloud", kind or kind_of())}
    wanted, wrong = check_document(text, Surroundings(folder, {}, protocols, AllowList()))
    return wanted, {one.pointer: one.detail for one in wrong}


def test_secrets_are_kept_apart_and_may_stand_in_files(tmp_path):
    ca = Authority().cert
    (tmp_path / "k").write_text("k3y-in-a-file\n")
    (tmp_path / "ca.pem").write_text(ca)
    channel = {"api_key_file": "k", "ca_file": "ca.pem", "proxy": "http://p.example:3128"}
    text = json.dumps({"channels": [{**CHANNEL, **channel}]}).replace(
        '"api_key": "k3y-of-ours", ', ""
    )
    protocols = {"cloud": over_http("cloud", kind_of())}
    [one], wrong = check_document(text, Surroundings(tmp_path, {}, protocols, AllowList()))
    assert wrong == []
    assert one.secrets == {
        "api_key": "k3y-in-a-file",
        "ca": ca.strip("\n"),
        "callback_secret": "0123456789abcdef",
    }
    assert one.spec["settings"] == {"account": "a1", "proxy": "http://p.example:3128"}


@pytest.mark.parametrize(
    ("channel", "pointer", "word"),
    [
        ({"api_key": ""}, "api_key", "give 1 to 20"),
        ({"acount": "a1"}, "acount", "did you mean `account`"),
        ({"ca": "-----BEGIN CERTIFICATE-----\nno\n"}, "ca", "no certificate that can be read"),
        ({"api_key": "k", "api_key_file": "k"}, "", "both"),
        ({"signature_by": "gateway"}, "signature_by", "in front itself"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, channel, pointer, word):
    (tmp_path / "k").write_text("k")
    _, wrong = checked(tmp_path, channel)
    [(where, detail)] = wrong.items()
    assert where == f"/channels/0/{pointer}".rstrip("/")
    assert word in detail


def test_a_signature_that_the_vendor_adds_need_not_be_said(tmp_path):
    [one], wrong = checked(tmp_path, {})
    assert not wrong
    assert one.spec["signature_by"] == "carrier"
    [other], _ = checked(tmp_path, {}, kind=kind_of(Traits()))
    assert "signature_by" not in other.spec


TEMPLATE = {
    "name": "code",
    "class": "otp",
    "text": "{code} is your code",
    "twins": {"cloud-a": {"code": "T1"}},
}
BARE = {**TEMPLATE, "twins": {}}


@pytest.mark.parametrize(
    ("known", "file", "pointer"),
    [
        ((), {"channels": True, "routes": True, "templates": [BARE]}, "/templates/0/twins"),
        ((), {"channels": True, "routes": True, "templates": [TEMPLATE]}, None),
        (("template", "channel"), {"routes": True}, "/routes/0/channels"),
        (("template", "route"), {"channels": True}, "/channels/0/protocol"),
        (("template", "route", "channel"), {"tenants": [{"name": "other"}]}, None),  # not its own
    ],
)
def test_a_vendor_of_templates_needs_a_twin_of_each_in_its_routes(tmp_path, known, file, pointer):
    """Whichever of the three is configured last: the others are in force."""
    protocols = {**PROTOCOLS, "cloud": over_http("cloud", kind_of(Traits(demands_template=True)))}
    whole = {"channels": [CHANNEL], "routes": [{"channels": ["cloud-a"]}], "templates": [BARE]}
    around = Surroundings(tmp_path, {}, protocols, AllowList())
    wanted, _ = check_document(json.dumps(whole), around)
    assert [one.spec.get("demands_template") for one in wanted if one.kind == "channel"] == [True]
    standing = {(one.kind, one.name): one.spec for one in wanted if one.kind in known}
    said = {name: whole[name] if value is True else value for name, value in file.items()}
    around = Surroundings(tmp_path, standing, protocols, AllowList())
    _, wrong = check_document(json.dumps(said), around)
    assert [one.pointer for one in wrong] == ([pointer] if pointer else [])
    assert all("template */code has no twin for channel cloud-a" in one.detail for one in wrong)


def test_two_channels_on_one_account_are_refused_where_the_vendor_cannot_tell_them(tmp_path):
    _, wrong = checked(tmp_path, {}, {"name": "cloud-b"})
    assert "same url and account" in wrong["/channels/1/account"]
    for other in ({"account": "a2"}, {"url": "https://eu.example.com"}):
        assert not checked(tmp_path, {}, {"name": "cloud-b", **other})[1]
    assert not checked(tmp_path, {}, {"name": "cloud-b"}, kind=kind_of(login=""))[1]


def test_it_makes_a_channel():
    protocol = over_http("cloud", kind_of(Traits(asks=True)))
    channel = config.Channel(7, "cloud-a", "cloud", {"account": "a1"}, window=9)
    made = protocol.build(channel, FakeSink(), SessionPolicy())
    assert isinstance(made, HttpChannel)
    assert (made.can_ask, made.sends_whole, made.is_up(), made.free()) == (True, True, False, 0)


@pytest.mark.parametrize("protocol", ["aliyun", "tencent", "huawei"])
def test_vendors_of_the_mainland_count_every_text_as_ucs2(protocol):
    assert config.encodings_of(protocol) == {Encoding.UCS2}
    assert config.encodings_of("infobip") == frozenset(Encoding)


@pytest.mark.parametrize("name", sorted(VENDORS))
def test_each_vendor_checks_its_settings_and_asks_for_a_guard_or_signs(name):
    wrong = dict(PROTOCOLS[name].validate({"nothing_of_the_kind": 1}))
    assert "/nothing_of_the_kind" in wrong
    assert len(wrong) > 1
