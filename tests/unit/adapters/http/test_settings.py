"""The settings that every HTTP channel has."""

import pytest

from adapters.http.settings import COMMON, SECRETS, find_wrong, parse

GUARD = {"callback_secret": "0123456789abcdef"}


def wrong(**raw):
    return find_wrong({**GUARD, **raw}, {}, (), "a vendor's channel")


@pytest.mark.parametrize(
    "good",
    [
        {"url": "https://api.example.com"},
        {"url": "http://127.0.0.1:8080/sms/v1"},
        {"url": "http://[::1]:8080"},
        {"proxy": "http://proxy.example.com:3128", "proxy_user": "u", "proxy_password": "p"},
        {"callback_sources": ["203.0.113.0/24"], "callbacks": True},
        {"connect_timeout_s": 1.5, "max_batch": 100, "ask_after_s": 60, "absent_after_s": 90},
        {"pull_every_s": 5, "public_url": "https://sms.example.com/base"},
    ],
)
def test_what_is_right(good):
    assert wrong(**good) == []
    settings = parse({**GUARD, **good})
    for name, value in good.items():
        found = getattr(settings, name)
        assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.parametrize(
    ("bad", "pointer"),
    [
        ({"url": "ftp://api.example.com"}, "/url"),
        ({"url": "https://user:word@api.example.com"}, "/url"),
        ({"url": "https://api.example.com?key=1"}, "/url"),
        ({"url": "https://"}, "/url"),
        ({"url": 7}, "/url"),
        ({"proxy": "http://u:p@proxy.example.com:3128"}, "/proxy"),
        ({"proxy": "proxy.example.com"}, "/proxy"),
        ({"proxy_user": "u"}, "/proxy_user"),
        ({"proxy": "http://p.example:1", "proxy_password": "p"}, "/proxy_password"),
        ({"ca": "no pem"}, "/ca"),
        ({"max_batch": 0}, "/max_batch"),
        ({"callback_secret": "short"}, "/callback_secret"),
        ({"callback_secret": "a/b?c#d&e=f 123456"}, "/callback_secret"),
        ({"callback_sources": ["0.0.0.0/0"]}, "/callback_sources"),
        ({"connect_timeout_s": 0}, "/connect_timeout_s"),
        ({"uri": "https://api.example.com"}, "/uri"),
    ],
)
def test_what_is_wrong_is_named(bad, pointer):
    assert [where for where, _ in wrong(**bad)] == [pointer]


def test_no_value_is_echoed():
    word = "a secret that is none of the log's"
    found = wrong(**dict.fromkeys((*COMMON, "other"), word))
    assert len(found) == len(COMMON) - 1  # a login of the proxy may be so
    assert not any(word in detail for _, detail in found)


def test_calls_that_anybody_could_make_are_refused_with_both_remedies():
    [(pointer, detail)] = find_wrong({}, {}, (), "a vendor's channel")
    assert pointer == "/callback_secret"
    for remedy in ("callback_secret", "callback_sources", "callbacks: false"):
        assert remedy in detail
    assert find_wrong({"callbacks": True}, {}, (), "a vendor's channel")


@pytest.mark.parametrize(
    "guard", [GUARD, {"callback_sources": ["10.0.0.0/8"]}, {"callbacks": False}]
)
def test_one_guard_is_enough(guard):
    assert find_wrong(guard, {}, (), "a vendor's channel") == []


def test_a_vendor_that_signs_its_calls_needs_none():
    assert find_wrong({}, {}, (), "a vendor's channel", is_signed=True) == []


def test_a_vendor_s_own_check_goes_before_the_common_one():
    assert find_wrong({**GUARD, "url": 7}, {"url": lambda _: None}, (), "a channel") == []
    assert [where for where, _ in find_wrong(GUARD, {}, ("api_key",), "a channel")] == ["/api_key"]


def test_secrets_are_not_shown():
    shown = repr(parse({**GUARD, "proxy_password": "word", "ca": "pem"}))
    assert "0123456789abcdef" not in shown
    assert "word" not in shown.replace("proxy_password", "")
    assert set(COMMON) & set(SECRETS) == {"ca", "callback_secret", "proxy_password"}


@pytest.mark.parametrize(
    ("url", "is_refused"),
    [
        ("http://api.example.com", True),
        ("HTTP://api.example.com", True),
        ("http://8.8.8.8:8080/x", True),
        ("http://[2606:4700::1111]/", True),
        ("http://localhost.example.com", True),
        ("https://api.example.com", False),
        ("http://localhost:8080", False),
        ("http://vendor:8080", False),
        ("http://vendor.internal", False),
        ("http://127.0.0.1:1", False),
        ("http://10.1.2.3/x", False),
        ("http://[fd00::1]:8080", False),
    ],
)
def test_a_key_does_not_cross_public_networks_in_clear(url, is_refused):
    wrong = find_wrong({**GUARD, "url": url}, {}, (), "a channel")
    assert ("/url" in [where for where, detail in wrong if "plain_http" in detail]) is is_refused
    wrong = find_wrong({**GUARD, "url": url, "plain_http": True}, {}, (), "a channel")
    assert not [detail for _, detail in wrong if "plain_http" in detail]
