"""Templates in a configuration file: made, compared, and complained of with their place."""

from __future__ import annotations

import pytest

from gateway import templatefit
from gateway.apply import apply_document
from gateway.plan import Applied
from store.seal import Keyring
from tests.support.config_store import Store
from webhooks.address import AllowList

KEYRING = Keyring(b"k" * 32)


@pytest.fixture
def store():
    return Store()


async def put(text, folder, store):
    return await apply_document(text, folder, store, KEYRING, AllowList())


TEMPLATES = """
tenants: [{name: shop, signatures: [某商城]}]
channels:
  - {name: a, protocol: smpp, host: a.example, port: 2775, system_id: x, password: "1"}
  - {name: b, protocol: smpp, host: b.example, port: 2775, system_id: x, password: "1"}
routes: [{tenant: "*", class: "*", carrier: "*", channels: [a, b]}]
templates:
  - name: code
    tenant: shop
    class: otp
    text: 验证码{code}，{minutes}分钟
    twins:
      b: {code: SMS_1, order: [minutes, code]}
"""


async def test_a_tenant_has_no_more_templates_than_a_text_is_compared_with(
    tmp_path, store, monkeypatch
):
    monkeypatch.setattr(templatefit, "MAX_TEMPLATES", 1)
    await put(TEMPLATES, tmp_path, store)
    more = TEMPLATES + "  - {name: more, tenant: shop, class: otp, text: x}\n"
    [complaint] = await put(more, tmp_path, store)
    assert complaint.pointer == "/templates/1/tenant"
    everybodys = more.replace("more, tenant: shop", "more")
    assert isinstance(await put(everybodys, tmp_path, store), Applied)


async def test_templates_are_applied_with_a_diff_and_twice_the_same(tmp_path, store):
    applied = await put(TEMPLATES, tmp_path, store)
    assert ("template", "shop/code") in applied.made
    assert store.objects["template", "shop/code"].spec == {
        "tenant": "shop",
        "name": "code",
        "class": "otp",
        "text": "验证码{code}，{minutes}分钟",
        "twins": {"b": {"code": "SMS_1", "order": ["minutes", "code"]}},
    }
    assert ("template", "shop/code") in (await put(TEMPLATES, tmp_path, store)).unchanged
    other = TEMPLATES.replace("SMS_1", "SMS_2")
    assert (await put(other, tmp_path, store)).changed == [("template", "shop/code")]


@pytest.mark.parametrize(
    ("before", "after", "pointer"),
    [
        ("{minutes}分钟", "{minutes}{x}", "/templates/0/text"),
        ("tenant: shop", "tenant: nobody", "/templates/0/tenant"),
        ("class: otp", "class: urgent", "/templates/0/class"),
        ("      b:", "      c:", "/templates/0/twins/c"),
        ("[minutes, code]", "[minutes]", "/templates/0/twins/b/order"),
        ("code: SMS_1, ", "", "/templates/0/twins/b"),
        ("name: code", "nmae: code", "/templates/0/nmae"),
    ],
)
async def test_a_wrong_template_is_named_with_its_place(tmp_path, store, before, after, pointer):
    complaints = await put(TEMPLATES.replace(before, after, 1), tmp_path, store)
    assert pointer in {complaint.pointer for complaint in complaints}
