"""What the presets of cloud vendors share: codes by family, numbers, moments, brands."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import adapters.http
from adapters.http import aliyun, tencent
from adapters.http.clouds import (
    brand_of,
    day_of,
    endpoint_of,
    local_of,
    sign_name,
    unix_of,
)
from adapters.http.reading import UNCERTAIN, Codes
from receipts.normalise import REACTIONS
from sms.codes import THROTTLED
from sms.outcomes import Cause
from sms.reasons import BY_CODE
from tests.support.http_vendors import SECRET, submit

DOCS = Path(__file__).parents[4] / "docs"
DATA = Path(adapters.http.__file__).parent / "data"


@pytest.mark.parametrize("vendor", ["aliyun", "huawei", "infobip", "tencent", "twilio"])
def test_every_row_is_of_our_words(vendor):
    codes = Codes(vendor)
    assert {row[0] for row in codes.answers.values()} <= {*Cause, THROTTLED, UNCERTAIN}
    assert {row[1] for row in codes.answers.values()} <= set(BY_CODE)
    assert set(codes.reports.values()) <= REACTIONS
    for kind, reason, *_ in codes.answers.values():
        if kind == Cause.NUMBER:
            assert BY_CODE[reason].cause is Cause.NUMBER
    loaded = json.loads((DATA / f"{vendor}.json").read_text("utf-8"))
    assert loaded["sources"][0].startswith("https://")  # remarks may follow


@pytest.mark.parametrize("vendor", [aliyun, tencent])
def test_what_the_documents_configure_is_right(vendor):
    name = vendor.__name__.rpartition(".")[2]
    page = (DOCS / f"vendors-{name}.md").read_text("utf-8")
    written = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    own = dict(next(one for one in written["channels"] if one["protocol"] == name))
    for common in ("name", "protocol", "window", "segments_per_second"):
        del own[common]
    settings = {key.removesuffix("_file"): value for key, value in own.items()}
    settings["callback_secret"] = SECRET
    assert vendor.validate(settings) == []
    assert all(f"`{setting}`" in page for setting in vendor._CHECKS)


def test_a_code_without_a_row_is_of_its_nearest_family():
    codes = Codes("tencent")
    assert codes.row("RequestLimitExceeded.New.Deep") == codes.row("RequestLimitExceeded.New")
    assert codes.row("InternalError.SigVerificationFail") != codes.row("InternalError.New")
    assert codes.row("New.One") is None
    assert codes.row("") is None


@pytest.mark.parametrize(
    ("written", "local"),
    [
        ("13800138000", "13800138000"),
        ("8613800138000", "13800138000"),
        ("+8613800138000", "13800138000"),
        ("008613800138000", "13800138000"),
        ("85260000000", "85260000000"),
        ("13475550123", "13475550123"),
    ],
)
def test_a_number_has_one_local_form(written, local):
    assert local_of(written) == local


@given(st.from_regex("1[3-9][0-9]{9}", fullmatch=True), st.sampled_from(["", "86", "+86", "0086"]))
def test_a_mainland_number_is_the_same_in_all_its_spellings(number, prefix):
    assert local_of(prefix + number) == number


def test_moments_are_of_utc_plus_8():
    assert unix_of("2027-01-15 16:00:00") == 1_800_000_000
    assert day_of(1_800_000_000) == "20270115"
    assert day_of(1_800_028_800) == "20270116"
    odd: list[object] = [None, "", 5, "yesterday", "9999-12-31 23:59:59", "0001-01-01 00:00:00"]
    assert [unix_of(one) for one in odd[:4]] == [None] * 4
    for one in odd[4:]:
        unix_of(one)  # whatever it is, no error


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("https://api.example.com", "api.example.com", "/"),
        ("https://api.example.com:443/", "api.example.com", "/"),
        ("http://API.example.com:80/a/b", "api.example.com", "/a/b"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", "/"),
        ("http://[::1]:8080/x", "[::1]:8080", "/x"),
    ],
)
def test_what_is_signed_of_an_address(url, host, path):
    assert endpoint_of(url) == (host, path)


@pytest.mark.parametrize(
    ("text", "brand"),
    [("【Acme】Hi", "Acme"), ("Hi【Acme】", ""), ("【Acme", ""), ("】【", ""), ("", "")],
)
def test_the_brand_stands_in_front(text, brand):
    assert brand_of(submit(text=text)) == brand


def test_a_signature_is_written_without_brackets():
    assert sign_name("阿里云") is None
    for odd in ("", "【阿里云】", " x", "x" * 21, "a\n", 5, None):
        assert "without" in str(sign_name(odd)) or "no 【】" in str(sign_name(odd))
