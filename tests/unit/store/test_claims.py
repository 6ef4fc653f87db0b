"""The claim book: a block's INSERT before its first byte, its DELETE when all is settled."""

import re

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from store.claims import ClaimBook, ClaimToken


def test_a_block_is_inserted_then_deleted():
    book = ClaimBook(7, first_block=5)
    ran = []
    assert book.block([30, 20], lambda: ran.append(1)) == 5
    assert book.has_pending()
    sql, token = book.take_sql()
    assert sql == (
        "INSERT INTO claims (process,block,ids) VALUES (7,5,'{30,20}') ON CONFLICT DO NOTHING;"
    )
    assert ran == []
    book.committed(token)
    assert ran == [1]
    assert not book.has_pending()
    assert book.floor() == 20
    book.settled(5)
    assert not book.has_pending()
    book.settled(5)
    sql, token = book.take_sql()
    assert sql == "DELETE FROM claims WHERE process=7 AND block IN (5);"
    assert book.floor() == 20  # until the DELETE is durable a crash would find the block
    book.committed(token)
    assert (book.floor(), book.open_blocks()) == (None, 0)


def test_a_lane_that_accepts_takes_inserts_alone_oldest_first():
    """What changes rows that stand is left to the event lane, which survives a deadlock."""
    book = ClaimBook(7)
    ended, stripped, *doubtful = [book.block([n, n + 10]) for n in range(4)]
    _, token = book.take_sql()
    book.strip_sql([1])  # its INSERT is on its way
    book.committed(token)
    book.settled(ended, 2)
    for number in doubtful:
        book.block([20 + number])
    sql, token = book.take_new_sql()
    assert sql.startswith("INSERT")
    assert "DELETE" not in sql
    assert "UPDATE" not in sql
    newest = book.block([99])
    book.failed(token, is_certain=False)
    sql, _ = book.take_new_sql()
    numbers = [int(n) for n in re.findall(r"\(7,(\d+),", sql)]
    assert numbers == sorted(numbers)
    assert numbers[-1] == newest
    rest, _ = book.take_sql()
    assert rest.startswith(f"DELETE FROM claims WHERE process=7 AND block IN ({ended})")
    assert f"block IN ({stripped})" in rest


def test_a_reserved_block_is_nobody_elses_and_writes_nothing_until_it_is_settled():
    book = ClaimBook(0)
    number = book.reserve()
    assert book.block([9]) == number + 1
    assert book.reserve() == number + 2
    _, token = book.take_sql()
    book.committed(token)
    book.adopt(number, [5, 6])  # another statement inserted it
    assert (book.floor(), book.has_pending()) == (5, False)
    book.settled(number, 2)
    assert book.take_sql()[0] == f"DELETE FROM claims WHERE process=0 AND block IN ({number});"


def test_a_failed_flush_brings_everything_back():
    book = ClaimBook(0)
    book.block([1])
    _, token = book.take_sql()
    assert book.take_sql()[0] == ""
    book.failed(token)
    sql, token = book.take_sql()
    assert "(0,1,'{1}')" in sql
    book.committed(token)
    book.settled(1)
    _, token = book.take_sql()
    book.failed(token)
    assert book.take_sql()[0].startswith("DELETE")


def test_a_block_dropped_before_its_flush_writes_nothing():
    book = ClaimBook(0)
    block = book.block([1, 2])
    book.drop(block)
    assert (book.take_sql()[0], book.open_blocks()) == ("", 0)


def test_a_block_settled_while_its_insert_flies_is_deleted_afterwards():
    book = ClaimBook(0)
    ran = []
    block = book.block([1], lambda: ran.append(1))
    _, token = book.take_sql()
    book.settled(block)
    assert not book.has_pending()
    book.committed(token)
    assert ran == []
    assert book.take_sql()[0].startswith("DELETE")


def test_an_insert_in_doubt_whose_block_ended_is_deleted_to_be_sure():
    book = ClaimBook(0)
    block = book.block([1])
    _, token = book.take_sql()
    book.drop(block)
    book.failed(token, is_certain=False)
    assert book.take_sql()[0].startswith("DELETE")


def test_an_adopted_block_can_be_settled_and_numbers_go_on_above_it():
    book = ClaimBook(0)
    book.adopt(41, [5, 6])
    book.adopt(44, [])
    assert book.block([9]) == 45
    book.settled(41, 2)
    sql, _ = book.take_sql()
    assert "block IN (44,41)" in sql
    book.settled(999)  # a block nobody knows


def test_a_block_in_doubt_that_is_settled_before_its_next_try_is_deleted():
    book = ClaimBook(0)
    block = book.block([1])
    _, token = book.take_sql()
    book.failed(token, is_certain=False)
    book.settled(block)
    assert book.take_sql()[0].startswith("DELETE")


class Flushes(RuleBasedStateMachine):
    """Against a table: after every flush has ended the table holds exactly the open blocks."""

    def __init__(self):
        super().__init__()
        self.book = ClaimBook(0)
        self.table: set[int] = set()
        self.tokens: list[tuple[list[int], list[int], ClaimToken]] = []
        self.left: dict[int, int] = {}
        self.claimed: set[int] = set()

    @rule(size=st.integers(1, 4))
    def claim(self, size):
        block = self.book.block(list(range(size)), lambda: self.claimed.add(block))
        self.left[block] = size

    @rule(data=st.data())
    def settle(self, data):
        if self.left:
            block = data.draw(st.sampled_from(sorted(self.left)))
            self.book.settled(block)
            self.left[block] -= 1
            if not self.left[block]:
                del self.left[block]

    @rule()
    def fly(self):
        _, token = self.book.take_sql()
        inserts = [block.number for block in token.inserts]
        self.tokens.append((inserts, [block.number for block in token.deletes], token))

    @rule(data=st.data(), end=st.sampled_from(["commit", "fail", "doubt"]), is_there=st.booleans())
    def land(self, data, end, is_there):
        if not self.tokens:
            return
        flight = data.draw(st.sampled_from(range(len(self.tokens))))
        inserts, deletes, token = self.tokens.pop(flight)
        if end == "commit" or (end == "doubt" and is_there):
            self.table |= set(inserts)
            self.table -= set(deletes)
        if end == "commit":
            self.book.committed(token)
        else:
            self.book.failed(token, is_certain=end == "fail")

    @invariant()
    def claimed_blocks_stand_in_the_table(self):
        assert self.claimed & set(self.left) <= self.table

    def teardown(self):
        for _ in range(4):
            _, token = self.book.take_sql()
            self.tokens.append(
                ([b.number for b in token.inserts], [b.number for b in token.deletes], token)
            )
            for inserts, deletes, flown in self.tokens:
                self.table |= set(inserts)
                self.table -= set(deletes)
                self.book.committed(flown)
            self.tokens.clear()
        assert self.table == set(self.left)
        assert self.book.open_blocks() == len(self.left)


TestFlushes = Flushes.TestCase


@given(st.lists(st.lists(st.integers(0, 1 << 62), min_size=1, max_size=3), max_size=5))
def test_the_floor_is_the_lowest_id_of_all_blocks(blocks):
    book = ClaimBook(0)
    for ids in blocks:
        book.block(ids)
    assert book.floor() == min((id for ids in blocks for id in ids), default=None)


def test_a_stripped_id_leaves_its_block_and_nothing_else() -> None:
    book = ClaimBook(3)
    number = book.block([10, 11])
    _, token = book.take_sql()
    strip = book.strip_sql([10, 99])  # while its INSERT is on its way, perhaps by the other lane
    assert "<>ALL('{10}'::bigint[])" in strip
    assert f"process=3 AND block IN ({number})" in strip
    book.committed(token)
    sql, token = book.take_sql()  # once more, behind the INSERT
    assert sql == strip
    book.failed(token)
    assert book.take_sql()[0] == strip
    assert not book.strip_sql([10])
    assert book.open_in(number) == 2


def test_an_id_stripped_before_its_block_is_inserted_is_never_written() -> None:
    book = ClaimBook(3)
    book.block([10, 11])
    assert not book.strip_sql([10])
    assert "'{11}'" in book.take_sql()[0]
