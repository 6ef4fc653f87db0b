"""Keys made of words: the same words the same key, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from sms.model import Carrier, Encoding, Message, MessageClass
from store.intake import HASH_BYTES, Hasher, KeyRow, Kind, release_sql

SECRET = b"s" * 32
_NAMES = st.binary(min_size=1, max_size=255)
_REQUEST = st.tuples(
    st.integers(1, 2**31 - 1), st.sampled_from(["/v1/messages", "/v1/batches"]), _NAMES
)


def text_of(tenant, client_ref):
    return Message(
        0,
        tenant,
        MessageClass.OTP,
        "8613800138000",
        Carrier.CM,
        86,
        Encoding.UCS2,
        ("x",),
        2.0,
        1.0,
        client_ref=client_ref,
    )


def ref(tenant, text):
    [key] = Hasher(SECRET).refs([text_of(tenant, text)])
    return key


@given(_REQUEST, _REQUEST)
def test_a_request_is_known_by_tenant_path_and_key(one, other):
    slots = [
        Hasher(SECRET).request(tenant, path, name, b"digest").slot
        for tenant, path, name in (one, other)
    ]
    assert (slots[0] == slots[1]) == (one == other)
    assert {len(slot[2]) for slot in slots} == {HASH_BYTES}


@given(st.integers(1, 2**31 - 1), st.text(min_size=1))
def test_the_same_words_as_key_and_as_client_ref_have_nothing_in_common(tenant, words):
    request = Hasher(SECRET).request(tenant, "/v1/messages", words.encode(), b"")
    assert request.key != ref(tenant, words).key
    assert ref(tenant, words).kind == Kind.CLIENT_REF
    assert words.encode() not in ref(tenant, words).key or len(words) < HASH_BYTES


def test_without_the_secret_nobody_can_make_a_key():
    other = Hasher(b"t" * 32)
    assert other.request(1, "/v1/messages", b"a", b"").key != (
        Hasher(SECRET).request(1, "/v1/messages", b"a", b"").key
    )
    assert other.body().digest() != Hasher(SECRET).body().digest()


def test_keys_of_messages_remember_their_places():
    messages = [text_of(1, text) for text in (None, "a", None, "b")]
    keys = Hasher(SECRET).refs(messages)
    assert [key.place for key in keys] == [1, 3]
    assert keys[0].key == ref(1, "a").key


def test_only_integers_and_hexadecimal_are_ever_formatted_into_sql():
    row = KeyRow(Kind.REQUEST, 7, b"'); drop--", b"", 9)
    assert release_sql([row]) == (
        "DELETE FROM intake_keys WHERE (kind,tenant,key) IN"
        " ((0,7,'\\x27293b2064726f702d2d'::bytea));"
    )
    assert release_sql([]) == ""
