"""A configuration file: all complaints at once, and the same file twice changes nothing."""

from __future__ import annotations

import io
import json
import re
import textwrap
from decimal import Decimal

import pytest

from gateway import apply
from gateway.api.auth import hash_secret, new_key, parse_key
from gateway.apply import _report, apply_document
from gateway.document import Wanted
from gateway.plan import Action, Applied, Plan, Planned
from gateway.terminal import Terminal
from sms.model import Carrier, Encoding
from store.objects import StoredObject
from store.seal import Keyring
from store.snapshot import _channel
from tests.support.config_store import Store
from webhooks.address import AllowList
from webhooks.sign import parse_secret

KEYRING = Keyring(b"k" * 32)


WHOLE = """
tenants:
  - name: shop
    signatures: [某商城]
    countries: [86, 1]
    limits: {segments_per_second: 2000, burst_segments: 4000}
    api_keys:
      - {name: backend, scopes: [send, read], secret_file: shop.key}
      - {name: reader, scopes: [read]}
admin_keys: [{name: ops, secret_file: ops.key}]
channels:
  - name: mobile-a
    protocol: smpp
    host: 127.0.0.1
    port: 2775
    system_id: shop
    password_file: mobile-a.pw
    bind: trx
    sessions: 2
    window: 64
    segments_per_second: 1000
    classes: [otp, transactional, marketing]
    price_per_segment: "0.035"
  - {name: unicom-b, protocol: smpp, host: b.example, port: 2775, system_id: shop, password: "123"}
routes:
  - {tenant: "*", class: "*", carrier: "*", channels: [mobile-a, unicom-b]}
  - {tenant: shop, class: otp, carrier: CU, country: 86, channels: [unicom-b]}
webhook_endpoints:
  - {tenant: shop, url: "https://backend.example/hooks/sms", events: ["message.*"], batch: true}
"""


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mobile-a.pw").write_text("secret\n")
    return tmp_path


async def put(text, folder, store, allow=None):
    text = textwrap.dedent(text)
    return await apply_document(text, folder, store, KEYRING, allow or AllowList())


async def test_a_whole_file(folder, store):
    applied = await put(WHOLE, folder, store)
    assert isinstance(applied, Applied), applied
    assert applied.version == 1
    assert len(applied.made) == 9
    assert store.objects["tenant", "shop"].spec == {
        "signatures": ["某商城"],
        "countries": [86, 1],
        "segments_per_second": 2000,
        "burst_segments": 4000,
    }
    channel = store.objects["channel", "mobile-a"]
    assert channel.spec["settings"] == {
        "host": "127.0.0.1",
        "port": 2775,
        "system_id": "shop",
        "bind": "trx",
    }
    assert channel.secrets == {"password": "secret"}
    assert channel.spec["price_per_segment"] == "0.035"
    route = store.objects["route", "*/*/*/*"].spec
    assert (route["channels"], route["country"]) == (["mobile-a", "unicom-b"], 0)
    assert store.objects["route", "shop/otp/CU/86"].spec["country"] == 86
    assert store.objects["webhook_endpoint", "shop https://backend.example/hooks/sms"]


async def test_limits_by_class_bursts_and_quotas(folder, store):
    limits = {
        "segments_per_second": 50,
        "segments_per_day": 1000,
        "segments_per_month": 20_000,
        "classes": {"marketing": {"segments_per_second": 5}},
        "bursts": [{"until": "2026-11-12T00:00:00+08:00", "segments_per_second": 500}],
    }
    file = json.dumps({"tenants": [{"name": "a", "limits": limits}]})
    applied = await put(file, folder, store)
    assert isinstance(applied, Applied), applied
    spec = store.objects["tenant", "a"].spec
    assert spec == {
        "signatures": [],
        "countries": [86],
        "segments_per_second": 50,
        "burst_segments": 100,
        "segments_per_day": 1000,
        "segments_per_month": 20_000,
        "classes": {"marketing": {"segments_per_second": 5, "burst_segments": 10}},
        "bursts": [
            {
                "until": "2026-11-11T16:00:00.000Z",
                "segments_per_second": 500,
                "burst_segments": 1000,
            }
        ],
    }
    assert (await put(file, folder, store)).unchanged == [("tenant", "a")]
    plain = json.dumps({"tenants": [{"name": "a"}]})
    assert (await put(plain, folder, store)).changed == [("tenant", "a")]
    assert {"classes", "bursts", "segments_per_day"}.isdisjoint(store.objects["tenant", "a"].spec)


async def test_keys_are_made_kept_and_shown_once(folder, store):
    applied = await put(WHOLE, folder, store)
    for file, name in [("shop.key", "shop/backend"), ("ops.key", "/ops")]:
        path = folder / file
        assert path.stat().st_mode & 0o777 == 0o600
        key = parse_key(path.read_text().strip().encode())
        stored = store.objects["api_key", name]
        assert key is not None
        assert stored.spec["key_id"] == key.id
        digest = hash_secret(KEYRING.pepper, key.secret)
        assert stored.secrets == {"secret_hash": digest.hex()}
    assert store.objects["api_key", "/ops"].spec["scopes"] == ["admin"]
    assert store.objects["api_key", "/ops"].spec["tenant"] is None
    shown = dict(applied.shown)
    assert set(shown) == {
        "API key shop/reader",
        "webhook secret of shop https://backend.example/hooks/sms",
    }
    assert parse_key(shown["API key shop/reader"].encode())
    assert (
        len(parse_secret(shown["webhook secret of shop https://backend.example/hooks/sms"])) == 32
    )


async def test_the_same_file_twice_changes_nothing(folder, store):
    await put(WHOLE, folder, store)
    before = dict(store.objects)
    again = await put(WHOLE, folder, store)
    assert (again.version, again.made, again.changed, again.shown, again.files) == (
        1,
        [],
        [],
        [],
        [],
    )
    assert len(again.unchanged) == 9
    assert store.objects == before


async def test_one_change_is_one_object(folder, store):
    await put(WHOLE, folder, store)
    applied = await put(WHOLE.replace("window: 64", "window: 65"), folder, store)
    assert applied.changed == [("channel", "mobile-a")]
    assert applied.version == 2
    (folder / "mobile-a.pw").write_text("changed")
    assert (await put(WHOLE.replace("window: 64", "window: 65"), folder, store)).changed == [
        ("channel", "mobile-a")
    ]


async def test_a_key_file_that_exists_is_read(folder, store):
    text, digest = new_key(KEYRING.pepper, 4711)
    (folder / "shop.key").write_text(text + "\n")
    await put(WHOLE, folder, store)
    stored = store.objects["api_key", "shop/backend"]
    assert (stored.spec["key_id"], stored.secrets["secret_hash"]) == (4711, digest.hex())


async def test_objects_of_an_earlier_file_may_be_named(folder, store):
    await put(WHOLE, folder, store)
    more = "routes: [{tenant: shop, class: marketing, channels: [unicom-b]}]"
    applied = await put(more, folder, store)
    assert applied.made == [("route", "shop/marketing/*/*")]
    assert ("tenant", "shop") in store.objects


async def test_a_suspended_tenant_stays_suspended(folder, store):
    await put(WHOLE, folder, store)
    store.objects["tenant", "shop"].spec["is_suspended"] = True
    assert ("tenant", "shop") in (await put(WHOLE, folder, store)).unchanged


async def test_what_an_operator_paused_stays_paused_until_a_file_says_otherwise(folder, store):
    await put(WHOLE, folder, store)
    name = next(name for kind, name in store.objects if kind == "channel")
    spec = store.objects["channel", name].spec
    assert "admin_state" not in spec
    spec["admin_state"] = "paused"
    assert ("channel", name) in (await put(WHOLE, folder, store)).unchanged
    said = WHOLE.replace(f"- name: {name}\n", f"- name: {name}\n    admin_state: active\n")
    assert said != WHOLE
    assert ("channel", name) in (await put(said, folder, store)).changed
    assert "admin_state" not in store.objects["channel", name].spec


@pytest.mark.parametrize(
    ("text", "line", "pointer", "words"),
    [
        ("", 1, "", "is empty"),
        ("tenants: [", 1, "", "not YAML"),
        ("- a", 1, "", "must be an object"),
        ("tenants: {}", 1, "/tenants", "must be a list"),
        ("tennants: []", 1, "/tennants", "did you mean `tenants`"),
        ("word_lists: []", 1, "/word_lists", "later version"),
        ("tenants:\n  - {}", 2, "/tenants/0", "has no `name`"),
        ("tenants:\n  - name: 5", 2, "/tenants/0/name", "quotes"),
        ("tenants:\n  - name: a\n    name: b", 3, "/tenants/0/name", "twice"),
        ("tenants:\n  - name: a\n  - name: a", 3, "/tenants/1", "the same"),
        ("tenants:\n  - name: a\n    signatures: [【a】]", 3, "/tenants/0/signatures", "without"),
        ("tenants:\n  - name: a\n    countries: [0]", 3, "/tenants/0/countries", "1 to 999"),
        ("tenants:\n  - name: a\n    on_uncertain: wait", 3, "/tenants/0/on_uncertain", "ask"),
        (
            "tenants:\n  - name: a\n    otp_caps: {per_hour: 101}",
            3, "/tenants/0/otp_caps/per_hour", "from 0 to 100",
        ),
        (
            "tenants:\n  - name: a\n    otp_caps: {per_week: 1}",
            3, "/tenants/0/otp_caps/per_week", "is not a field here",
        ),
        (
            "tenants:\n  - name: a\n    allowed_ips: [10.0.0.1/8]",
            3, "/tenants/0/allowed_ips", "behind its mask",
        ),
        ("tenants:\n  - name: a\n    suspended: 1", 3, "/tenants/0/suspended", "true or false"),
        (
            "tenants:\n  - name: a\n    limits:\n      segments_per_day: 0",
            4, "/tenants/0/limits/segments_per_day", "from 1 to",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      classes: {otps: {}}",
            4, "/tenants/0/limits/classes/otps", "did you mean `otp`",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      classes: {otp: 5}",
            4, "/tenants/0/limits/classes/otp", "must be an object",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      classes: {otp: {burst_segments: 5}}",
            4, "/tenants/0/limits/classes/otp", "has no `segments_per_second`",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      classes:\n"
            "        otp: {segments_per_second: x}",
            5, "/tenants/0/limits/classes/otp/segments_per_second", "must be a number",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      classes: {otp: {segments_per_second: 5,"
            " rate: 5}}",
            4, "/tenants/0/limits/classes/otp/rate", "is not a field",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      bursts: {}",
            4, "/tenants/0/limits/bursts", "a list of at most 20",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      bursts: [{segments_per_second: 5}]",
            4, "/tenants/0/limits/bursts/0", "has no `until`",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      bursts: [{until: '2026-11-11',"
            " segments_per_second: 5}]",
            4, "/tenants/0/limits/bursts/0/until", "with its zone",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      bursts: [{segments_per_second: 5,"
            " until: '0001-01-01T00:00:00+08:00'}]",
            4, "/tenants/0/limits/bursts/0/until", "from 2000",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      bursts: [{from: '2026-11-12T00:00:00Z',"
            " until: '2026-11-11T00:00:00Z', segments_per_second: 5}]",
            4, "/tenants/0/limits/bursts/0/until", "ends before it begins",
        ),
        (
            "tenants:\n  - name: a\n    limits:\n      segments_per_second: 1000001",
            4, "/tenants/0/limits/segments_per_second", "1e+06",
        ),
        (
            "tenants:\n  - name: a\n    api_keys: [{name: k, scopes: [admin]}]",
            3, "/tenants/0/api_keys/0/scopes", "send, read",
        ),
        (
            "tenants:\n  - name: a\n    api_keys: [{name: k, secret: smsgw_1_x}]",
            3, "/tenants/0/api_keys/0/secret", "not an API key",
        ),
        (
            "tenants:\n  - name: a\n    api_keys: [{name: k, signing: yes please}]",
            3, "/tenants/0/api_keys/0/signing", "true or false",
        ),
        (
            "tenants:\n  - name: a\n    api_keys: [{name: k, allowed_ips: []}]",
            3, "/tenants/0/api_keys/0/allowed_ips", "later",
        ),
        (
            "tenants:\n  - name: a\n    api_keys: [{name: k, signing_secret: smsgw_signing_x}]",
            3, "/tenants/0/api_keys/0/signing_secret", "not a signing secret",
        ),
        (
            "tenants:\n  - name: a\n    api_keys: [{name: k, signing: false, "
            "signing_secret_file: f}]",
            3, "/tenants/0/api_keys/0/signing_secret_file", "does not sign",
        ),
        (
            "tenants:\n  - name: a\n    api_keys: [{name: k, secret_file: no/such/k}]",
            3, "/tenants/0/api_keys/0/secret_file", "make the folder",
        ),
        ("channels: [{name: c, protocol: x25}]", 1, "/channels/0/protocol", "must be one of"),
        (
            "channels:\n  - {name: c, protocol: smpp, host: h, port: 1, password: '1'}",
            2, "/channels/0/system_id", "missing",
        ),
        (
            "channels:\n  - name: c\n    protocol: smpp\n    host: h\n    port: 70000\n"
            "    system_id: s\n    password: '1'",
            5, "/channels/0/port", "65535",
        ),
        (
            "channels:\n  - name: c\n    protocol: smpp\n    host: h\n    port: 1\n"
            "    system_id: s\n    password: 12345",
            7, "/channels/0/password", "characters",
        ),
        (
            "channels:\n  - name: c\n    protocol: smpp\n    host: h\n    port: 1\n"
            "    system_id: s\n    password_file: nothing.pw",
            7, "/channels/0/password_file", "does not exist",
        ),
        (
            "channels:\n  - {name: c, protocol: smpp, host: h, port: 1, system_id: s,\n"
            "     password: '1', wimdow: 5}",
            3, "/channels/0/wimdow", "did you mean `window`?",
        ),
        (
            "channels:\n  - {name: c, protocol: smpp, host: h, port: 1, system_id: s,\n"
            "     password: '1', sytem_type: x}",
            3, "/channels/0/sytem_type", "did you mean `system_type`?",
        ),
        (
            "channels:\n  - {name: c, protocol: smpp, host: h, port: 1, system_id: s,\n"
            "     password: '1', qqq: 5}",
            3, "/channels/0/qqq", "every channel has name, protocol, sessions, window",
        ),
        (
            "channels: [{name: c, protocol: smpp, host: h, port: 1, system_id: s, password: '1',\n"
            "  price_per_segment: 0.035}]",
            2, "/channels/0/price_per_segment", "in quotes",
        ),
        ("routes: [{channels: [nobody]}]", 1, "/routes/0/channels/0", "names no channel"),
        ("routes: [{channels: []}]", 1, "/routes/0/channels", "1 to"),
        ("routes: [{channels: [a], weights: [0]}]", 1, "/routes/0/weights", "more than 0"),
        ("routes: [{channels: [a], weights: [1001]}]", 1, "/routes/0/weights", "from 0 to 1000"),
        ("routes: [{channels: [a], weights: 5}]", 1, "/routes/0/weights", "one beside each"),
        ("routes: [{channels: [a], weights: [1, 1]}]", 1, "/routes/0/weights", "for 1 channels"),
        ("routes: [{carrier: XX, channels: [a]}]", 1, "/routes/0/carrier", "one of *, CM"),
        ("routes: [{tenant: nobody, channels: []}]", 1, "/routes/0/tenant", "names no tenant"),
        ("webhook_endpoints: [{tenant: a, url: 'x'}]", 1, "/webhook_endpoints/0/url", "not a URL"),
    ],
)  # fmt: skip
async def test_a_complaint_names_line_pointer_and_remedy(folder, store, text, line, pointer, words):
    complaints = await put(text, folder, store)
    assert isinstance(complaints, list)
    found = [c for c in complaints if c.pointer == pointer and words in c.detail]
    assert found, complaints
    assert found[0].line == line
    assert not store.objects


async def test_all_complaints_come_at_once_and_nothing_is_made(folder, store):
    text = WHOLE.replace("window: 64", "window: 0").replace("class: otp", "class: opt")
    text = text.replace("unicom-b]}\n  - ", "unicom-c]}\n  - ").replace("[send, read]", "[sned]")
    complaints = await put(text, folder, store)
    assert {c.pointer for c in complaints} == {
        "/tenants/0/api_keys/0/scopes",
        "/channels/0/window",
        "/routes/0/channels/1",
        "/routes/1/class",
    }
    lines = text.splitlines()
    for complaint in complaints:
        name = complaint.pointer.rsplit("/", 2)
        word = name[-1] if not name[-1].isdigit() else name[-2]
        assert word in lines[complaint.line - 1] or "scopes" in lines[complaint.line - 1]
    assert not (folder / "shop.key").exists()
    assert not store.objects


async def test_more_than_three_backups(folder, store):
    channels = "\n".join(
        f"  - {{name: c{i}, protocol: smpp, host: h, port: {i + 1}, system_id: s, password: ''}}"
        for i in range(5)
    )
    names = ", ".join(f"c{i}" for i in range(5))
    complaints = await put(
        f"channels:\n{channels}\nroutes: [{{channels: [{names}]}}]", folder, store
    )
    assert [c.pointer for c in complaints] == ["/routes/0/channels"]
    assert "at most 3" in complaints[0].detail


async def test_a_route_s_class_must_be_taken_by_its_channels(folder, store):
    text = """
    channels:
      - {name: c, protocol: smpp, host: h, port: 1, system_id: s, password: '', classes: [otp]}
    routes: [{class: marketing, channels: [c]}]
    """
    complaints = await put(text, folder, store)
    assert [c.pointer for c in complaints] == ["/routes/0/channels/0"]


TWO = """
channels:
  - {{name: a, protocol: smpp, host: a, port: 1, system_id: s, password: '', {first}}}
  - {{name: b, protocol: smpp, host: b, port: 1, system_id: s, password: '', {second}}}
routes: [{{{route}channels: [a, b]}}]
"""


@pytest.mark.parametrize(
    ("first", "second", "route", "is_good"),
    [
        ("sender: x", "sender: y", "", True),
        ("opt_out_line: 拒收请回复R", "sender: y", "", True),  # the same as unwritten, for +86
        ("opt_out_line: 退订回T", "opt_out_line: 退订回T", "", True),
        ("opt_out_line: 退订回T", "sender: y", "", False),
        ("opt_out_line: ''", "sender: y", "", False),
        ("opt_out_line: ''", "sender: y", "country: 1, ", True),
        ("opt_out_line: 退订回T", "sender: y", "class: otp, ", True),
        ("opt_out_line: 退订回T", "classes: [otp]", "", True),
        ("reference_bits: 16", "reference_bits: 16", "", True),
        ("reference_bits: 16", "sender: y", "class: otp, ", False),
        ("reference_bits: 8", "sender: y", "", True),
    ],
)
async def test_the_channels_of_a_route_share_what_they_make_of_a_text(
    folder, store, first, second, route, is_good
):
    found = await put(TWO.format(first=first, second=second, route=route), folder, store)
    if is_good:
        assert isinstance(found, Applied), found
        return
    [complaint] = found
    assert complaint.pointer == "/routes/0/channels"
    assert first.partition(":")[0] in complaint.detail
    assert not store.objects


async def test_a_channel_that_changes_its_line_is_held_against_routes_in_force(folder, store):
    await put(TWO.format(first="sender: x", second="sender: y", route=""), folder, store)
    changed = """
    channels:
      - {name: b, protocol: smpp, host: b, port: 1, system_id: s, password: '',
         opt_out_line: 退订回T}
    """
    [complaint] = await put(changed, folder, store)
    assert complaint.pointer == "/channels/0/opt_out_line"
    assert "opt_out_line" not in store.objects["channel", "b"].spec


async def test_a_channel_that_is_narrowed_is_held_against_routes_in_force(folder, store):
    await put(
        TWO.format(first="sender: x", second="sender: y", route="carrier: CM, "), folder, store
    )
    narrowed = """
    channels:
      - {name: b, protocol: smpp, host: b, port: 1, system_id: s, password: '', carriers: [CU]}
    """
    [complaint] = await put(narrowed, folder, store)
    assert complaint.pointer == "/channels/0/carriers"
    assert "add it to its `carriers`" in complaint.detail
    assert "carriers" not in store.objects["channel", "b"].spec


async def test_a_route_names_only_channels_that_serve_it(folder, store):
    text = TWO.format(first="carriers: [CU]", second="countries: [1]", route="carrier: CM, ")
    [complaint] = await put(text, folder, store)
    assert complaint.pointer == "/routes/0/channels/0"
    text = TWO.format(first="carriers: [CU]", second="countries: [1]", route="country: 86, ")
    [complaint] = await put(text, folder, store)
    assert complaint.pointer == "/routes/0/channels/1"


@pytest.mark.parametrize(
    ("field", "pointer", "words"),
    [
        ("report_classes: {'XA:1': number}", "report_classes", "perm_number"),
        ("status_classes: {'0x401': number}", "status_classes", "perm_number"),
        ("status_classes: {'zz': ported}", "status_classes", "0x0401"),
        ("encodings: [gsm7]", "encodings", "must hold ucs2"),
        ("encodings: [utf8]", "encodings", "one of gsm7, ucs2"),
        ("carriers: [XX]", "carriers", "one of CM"),
        ("carriers: []", "carriers", "1 to"),
        ("countries: ['86']", "countries", "remove the quotes"),
        ("signature_by: us", "signature_by", "one of gateway, carrier"),
    ],
)
async def test_what_a_channel_cannot_say_of_itself(folder, store, field, pointer, words):
    text = TWO.format(first=field, second="sender: y", route="class: otp, ")
    complaints = await put(text, folder, store)
    assert [one.pointer for one in complaints] == [f"/channels/0/{pointer}"]
    assert words in complaints[0].detail
    assert not store.objects


async def test_what_a_channel_says_of_itself_reaches_what_runs(folder, store):
    said = (
        "carriers: [CM, CB], countries: [86], encodings: [ucs2], signature_by: carrier, "
        "price_per_segment: '0.035', report_classes: {'XA:1': ported}, "
        "status_classes: {'0x0401': perm_number}"
    )
    await put(TWO.format(first=said, second="sender: y", route="carrier: CM, "), folder, store)
    channel = _channel(store.objects["channel", "a"], store.objects)
    assert channel.carriers == frozenset({Carrier.CM, Carrier.CB})
    assert channel.countries == frozenset({86})
    assert channel.encodings == {Encoding.UCS2}
    assert channel.adds_signature
    assert channel.price_per_segment == Decimal("0.035")
    assert channel.report_classes == {"XA:1": "ported"}
    assert channel.settings["status_classes"] == {"0x0401": "perm_number"}
    store.objects["channel", "b"].spec["of_a_newer_version"] = 1
    plain = _channel(store.objects["channel", "b"], store.objects)
    assert (plain.carriers, plain.price_per_segment, plain.adds_signature) == (None, None, False)


@pytest.mark.parametrize("line", ["退订【T】", "x" * 61, "1"])
async def test_what_is_no_opt_out_line(folder, store, line):
    given = TWO.format(first=f"opt_out_line: {line}", second="sender: y", route="class: otp, ")
    complaints = await put(given, folder, store)
    assert [one.pointer for one in complaints] == ["/channels/0/opt_out_line"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://backend.example/", "https://"),
        ("https://user:pw@backend.example/", "user name"),
        ("https://backend.example:9000/", "port 9000"),
        ("https://127.0.0.1/", "public Internet"),
        ("https://[::1]/", "public Internet"),
        ("https://10.0.0.1:8443/", "public Internet"),
        ("https://backend.example/#x", "fragment"),
        ("ftp://backend.example/", "not a URL"),
        ("https://例え.example/", "not a URL"),
        ("https://h:99999/", "not a URL"),
        ("https://0x7f000001/", "public Internet"),
        ("https://0x7f.1/", "public Internet"),
        ("https://h:0/", "443 or 8443"),
    ],
)
async def test_forbidden_urls(folder, store, url, words):
    text = f"tenants: [{{name: a}}]\nwebhook_endpoints: [{{tenant: a, url: '{url}'}}]"
    complaints = await put(text, folder, store)
    assert [c.pointer for c in complaints] == ["/webhook_endpoints/0/url"]
    assert words in complaints[0].detail


async def test_the_operator_s_exceptions_are_allowed(folder, store):
    text = "tenants: [{name: a}]\nwebhook_endpoints: [{tenant: a, url: 'http://127.0.0.1:9900/x'}]"
    assert isinstance(await put(text, folder, store), list)
    for allow in (AllowList.of(["http://127.0.0.1:9900"]), AllowList.of([], loopback_except=[])):
        assert isinstance(await put(text, folder, Store(), allow), Applied)


async def test_a_webhook_secret_may_be_given_or_filed(folder, store):
    secret = "whsec_" + "A" * 43 + "="
    (folder / "hook").write_text(secret)
    text = "tenants: [{name: a}]\nwebhook_endpoints:\n"
    text += f"  - {{tenant: a, url: 'https://a.example/1', secret: '{secret}'}}\n"
    text += "  - {tenant: a, url: 'https://a.example/2', secret_file: hook}\n"
    text += "  - {tenant: a, url: 'https://a.example/3', secret_file: new}\n"
    applied = await put(text, folder, store)
    assert isinstance(applied, Applied), applied
    assert applied.shown == []
    same = [store.objects["webhook_endpoint", f"a https://a.example/{i}"].secrets for i in (1, 2)]
    assert same[0] == same[1] == {"secrets": ["A" * 43 + "="]}
    assert (folder / "new").read_text().startswith("whsec_")
    bad = text.replace(secret, "whsec_short").replace(
        "secret_file: new", "events: [message.queued]"
    )
    assert [c.pointer for c in await put(bad, folder, store)] == [
        "/webhook_endpoints/0/secret",
        "/webhook_endpoints/2/events",
    ]


async def test_two_keys_must_not_share_a_file_or_a_secret(folder, store):
    text = "tenants: [{name: a, api_keys: [{name: x, secret_file: k}, {name: y, secret_file: k}]}]"
    assert "another entry" in (await put(text, folder, store))[0].detail
    (folder / "k").write_text(new_key(KEYRING.pepper, 9)[0])
    assert "another entry" in (await put(text, folder, store))[0].detail


async def test_no_secret_stands_in_a_complaint(folder, store):
    text = "channels: [{name: c, protocol: smpp, host: h, port: 1, system_id: s,"
    text += " password: topsecret99}]"
    complaints = await put(text, folder, store)
    assert complaints
    assert not any("topsecret99" in c.detail for c in complaints)


async def test_aliases_cannot_blow_a_file_up(folder, store):
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    complaints = await put(bomb, folder, store)
    assert re.search("without aliases", complaints[0].detail)
    loop = "a: &a [*a]"
    assert re.search("aliases", (await put(loop, folder, store))[0].detail)


ACCOUNT = "{name: %s, protocol: smpp, host: h, port: %d, system_id: s, password: ''}"


async def test_two_channels_of_one_file_on_one_account(folder, store):
    entries = "\n".join(f"  - {ACCOUNT % (name, 1)}" for name in ("a", "b"))
    [complaint] = await put(f"channels:\n{entries}", folder, store)
    assert (complaint.line, complaint.pointer) == (3, "/channels/1/system_id")
    assert "the account of channel a too" in complaint.detail
    assert "sessions: N" in complaint.detail
    assert not store.objects


async def test_a_channel_on_the_account_of_one_in_force(folder, store):
    assert isinstance(await put(f"channels: [{ACCOUNT % ('b', 1)}]", folder, store), Applied)
    [complaint] = await put(f"channels: [{ACCOUNT % ('a', 1)}]", folder, store)
    assert "name this one b" in complaint.detail
    again = await put(f"channels: [{ACCOUNT % ('b', 1)}]", folder, store)
    assert isinstance(again, Applied)
    other = await put(f"channels: [{ACCOUNT % ('a', 2)}]", folder, store)
    assert isinstance(other, Applied)


async def test_a_changed_route_of_all_tenants_is_pointed_out(folder, store):
    first = await put(WHOLE, folder, store)
    assert isinstance(first, Applied)
    assert first.notes == []
    text = WHOLE.replace("channels: [mobile-a, unicom-b]", "channels: [unicom-b]")
    applied = await put(text, folder, store)
    assert isinstance(applied, Applied)
    assert applied.notes == [
        "NOTE: the route of all tenants now leads to unicom-b; before: mobile-a, unicom-b"
    ]
    text = WHOLE.replace("b]}\n", "b], weights: [70, 30]}\n", 1)
    applied = await put(text, folder, store)
    assert applied.notes == [
        "NOTE: the route of all tenants now leads to mobile-a (70), unicom-b (30); before: unicom-b"
    ]


async def test_the_report_names_things_as_people_do(folder, store):
    (folder / "x").mkdir()
    applied = await put(WHOLE, folder / "x" / "..", store)
    assert isinstance(applied, Applied)
    out = io.StringIO()
    _report(applied, Terminal(stream=out))
    assert f"wrote {folder}/shop.key (0600)\n" in out.getvalue()
    assert ".." not in out.getvalue()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tenants:\n\t- name: a", "indent with spaces"),
        ("routes: [{tenant: *, channels: [a]}]", 'write "*"'),
        ("routes:\n  - tenant: *\n    channels: [a]", 'write "*"'),
        ("routes: [{tenant: *a, channels: [a]}]", 'write "*"'),
        ("tenants:\n  - name: a: b", "in quotes"),
        ("tenants: [{name: a", "check brackets"),
        ("tenants: [{name: @a}]", "put it in quotes"),
    ],
)
async def test_broken_yaml_has_a_remedy(folder, store, text, words):
    [complaint] = await put(text, folder, store)
    assert words in complaint.detail


async def test_a_number_in_quotes(folder, store):
    text = """
    channels:
      - {name: c, protocol: smpp, host: h, port: "1", window: "5", system_id: s, password: ''}
    """
    complaints = await put(text, folder, store)
    assert {c.pointer: "quotes" in c.detail for c in complaints} == {
        "/channels/0/port": True,
        "/channels/0/window": True,
    }


def test_the_addresses_that_vendors_are_told_are_shown_without_their_secret(monkeypatch):
    monkeypatch.setattr(apply, "VENDORS", {"fake": None})
    spec = {"protocol": "fake", "settings": {"public_url": "https://sms.example.com/"}}
    silent = {"protocol": "fake", "settings": {"callbacks": False}}
    objects = [
        StoredObject(7, 1, spec, {"callback_secret": "s" * 16}, "channel", "cloud-d"),
        StoredObject(8, 1, {"protocol": "fake"}, {}, "channel", "bare"),
        StoredObject(9, 1, silent, {}, "channel", "silent"),
        StoredObject(10, 1, {"protocol": "smpp"}, {}, "channel", "wire"),
        StoredObject(11, 1, {}, {}, "tenant", "shop"),
    ]
    path = "/v1/carrier-callbacks/chn_000000000000000"
    assert apply.callbacks_of(objects) == [
        ("cloud-d", "receipts", f"https://sms.example.com{path}7/receipts"),
        ("cloud-d", "inbound", f"https://sms.example.com{path}7/inbound"),
        ("bare", "receipts", f"{path}8/receipts"),
        ("bare", "inbound", f"{path}8/inbound"),
    ]


def test_a_dry_run_shows_them_too_as_far_as_they_are_known(monkeypatch):
    monkeypatch.setattr(apply, "VENDORS", {"fake": None})
    spec = {"protocol": "fake", "settings": {"public_url": "https://sms.example.com"}}
    standing = StoredObject(7, 1, spec, {}, "channel", "old")
    objects = [
        Planned(Action.KEEP, Wanted("channel", "old", spec), standing),
        Planned(Action.CREATE, Wanted("channel", "new", spec), None),
        Planned(Action.CREATE, Wanted("tenant", "shop", {}), None),
    ]
    path = "https://sms.example.com/v1/carrier-callbacks"
    assert apply.foreseen_callbacks(Plan(1, objects, [])) == [
        ("old", "receipts", f"{path}/chn_0000000000000007/receipts"),
        ("old", "inbound", f"{path}/chn_0000000000000007/inbound"),
        ("new", "receipts", f"{path}/<id, once applied>/receipts"),
        ("new", "inbound", f"{path}/<id, once applied>/inbound"),
    ]
