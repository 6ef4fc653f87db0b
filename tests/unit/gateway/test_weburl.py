"""What is said of a webhook's URL that is refused names the way out."""

from __future__ import annotations

from gateway.weburl import url_refusal
from tests.support import forbidden_addresses
from webhooks.address import AllowList


def test_a_name_for_loopback_is_told_how_the_sandbox_takes_it() -> None:
    sandbox = AllowList.of([], loopback_except=[9000])
    for url in ("http://localhost:9100/h", "http://127.0.0.1:9000/h", "http://127.0.0.1:80/h"):
        assert "http://127.0.0.1:PORT" in (url_refusal(url, sandbox) or ""), url
    assert url_refusal("http://127.0.0.1:9100/h", sandbox) is None
    assert "SMSGW_WEBHOOK_ALLOW" in (url_refusal("http://localhost:9100/h", AllowList.of([])) or "")


def test_no_spelling_of_a_forbidden_address_may_be_registered() -> None:
    for url in forbidden_addresses.urls():
        assert url_refusal(url, AllowList()) is not None, url
    for url in ("https://1.1.1.1/h", "https://[2606:4700:4700::1111]:8443/h", "https://a.example"):
        assert url_refusal(url, AllowList()) is None, url
