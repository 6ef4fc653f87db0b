from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import forbidden_addresses
from webhooks.address import AllowList
from webhooks.deliver import Target, parse_target

ALLOW = AllowList.of(["http://127.0.0.1:9900"])


@pytest.mark.parametrize(
    "url",
    [
        "https://backend.example/hooks/sms",
        "https://backend.example:8443/hooks?x=1",
        "https://例子.example/钩",
        "https://1.1.1.1/x",
    ],
)
def test_public_https_urls_may_be_called(url: str):
    target = parse_target(url, ALLOW)
    assert isinstance(target, Target)
    assert not target.is_exempt


def test_an_allowed_origin_is_exempt():
    target = parse_target("http://127.0.0.1:9900/hook#part", ALLOW)
    assert isinstance(target, Target)
    assert target.is_exempt
    assert str(target.url) == "http://127.0.0.1:9900/hook"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "backend.example/hooks",
        "http://backend.example/hooks",
        "https://backend.example:22/",
        "https://user:password@backend.example/",
        "https://user@backend.example/",
        "https:///path",
        "https://backend.example:99999/",
        "ftp://backend.example/",
        "file:///etc/passwd",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://127.0.0.1./",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1:8443/",
        "https://backend.example/ x",
        "https://backend.example/\nHost: other",
        "https://backend.example/" + "x" * 3000,
        "http://127.0.0.1:9901/",
        "http://user@127.0.0.1:9900/",
    ],
)
def test_what_can_be_seen_to_be_forbidden_is_refused_with_a_sentence(url: str):
    refused = parse_target(url, ALLOW)
    assert isinstance(refused, str)
    assert refused


def test_no_spelling_of_a_forbidden_address_may_be_called():
    for url in forbidden_addresses.urls():
        assert isinstance(parse_target(url, AllowList()), str), url


@given(st.text(max_size=80) | st.text(max_size=60).map(lambda text: "https://" + text))
def test_any_text_is_survived(text: str):
    assert isinstance(parse_target(text, ALLOW), Target | str)
