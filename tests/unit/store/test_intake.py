"""Keys made of words: the same words the same key, and nothing else."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms.model import Carrier, Encoding, Message, MessageClass
from store.intake import HASH_BYTES, TAKE_TRIES, Hasher, KeyRow, Kind, release_sql, take
from store.link import Aborted, Link

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


class ScriptedLink:
    """Answers INSERTs with what was inserted, and look-ups with what stands there then."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.said = []

    async def run(self, sql, data):
        self.said.append(sql.split(";")[0])
        return "" if sql == "ROLLBACK" else f"INSERT 0 {self.answers[0][0]}"

    async def read(self, question):
        self.said.append("look")
        return await question(self)

    async def fetch(self, sql, kinds, tenants, keys):
        _, rows = self.answers.pop(0)
        return rows


class Row(tuple[object, ...]):
    """A row of a look-up."""

    __slots__ = ()

    def __getitem__(self, name):
        return tuple(self)[{"digest": 3, "first_id": 4}[name]]


ROWS = [KeyRow(Kind.REQUEST, 1, b"a", b"d", 7), KeyRow(Kind.REQUEST, 1, b"b", b"d", 8)]


async def test_a_key_that_was_taken_and_belongs_to_nobody_is_inserted_anew():
    """No verdict: neither another body (422) nor another message's client_ref (409)."""
    mine = Row((*ROWS[0].slot, b"d", 7))
    link = ScriptedLink((1, [mine]), (2, []))
    assert await take(cast("Link", link), ROWS, 50) == {}
    assert link.said == ["BEGIN", "look", "ROLLBACK", "BEGIN"]


async def test_what_another_request_has_by_then_is_its_own():
    mine, theirs = Row((*ROWS[0].slot, b"d", 7)), Row((*ROWS[1].slot, b"e", 5))
    link = ScriptedLink((1, [mine]), (1, [mine, theirs]))
    assert await take(cast("Link", link), ROWS, 50) == {ROWS[1].slot: (b"e", 5)}


async def test_without_a_verdict_it_is_busy_and_nobodys():
    link = ScriptedLink(*[(0, [])] * TAKE_TRIES)
    with pytest.raises(Aborted) as caught:
        await take(cast("Link", link), ROWS, 50)
    assert caught.value.sqlstate == "55P03"
