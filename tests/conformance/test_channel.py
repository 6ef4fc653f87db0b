"""What every channel does, whatever its protocol: one suite, one rig per protocol.

A rig is a carrier on a loopback socket that is told how to behave (tests/support/wire_rig).
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial

import pytest

from adapters import shell
from sms.outcomes import Submitted, Throttled, Uncertain
from tests.support.certificates import Authority
from tests.support.smpp import a_message, some_submits, submits_of
from tests.support.wire_rig import SPOKEN, WireRig


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """What a carrier with TLS has, and what its channel is told."""
    authority = Authority()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made = authority.issue("127.0.0.1")
    context.load_cert_chain(made.file(tmp_path_factory.mktemp("tls") / "carrier.pem"))
    return {"tls": context, "settings": {"tls": True, "tls_ca": authority.cert}}


@pytest.fixture(params=[*sorted(SPOKEN), "smpp over TLS", "smpp tx+rx", "sgip over TLS"])
async def make(request, tls):
    """Start a rig and its channel; stopped at the end."""
    rigs = []
    protocol, _, variant = request.param.partition(" ")

    async def start(**options):
        own = {"": {}, "over TLS": tls, "tx+rx": {"settings": {"bind": "tx+rx"}}}[variant]
        rig = WireRig(protocol, **options, **own)
        rigs.append(rig)
        await rig.start()
        return rig

    yield start
    for rig in rigs:
        await rig.stop()


async def until(is_true: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(timeout_s):
        while not is_true():  # noqa: ASYNC110 – any condition, at the door's outside
            await asyncio.sleep(0.002)


async def test_it_logs_in_once_per_session_and_says_so_once(make):
    rig = await make(sessions=3, window=5)
    await until(lambda: rig.channel.window() == 15)
    assert rig.channel.is_up()
    assert rig.channel.free() == 15
    await until(lambda: rig.logins == rig.channel.places())
    assert rig.channel.places() in (3, 6)  # two of a kind where each direction has its own
    assert [is_up for is_up, _ in rig.sink.links] == [True]
    assert rig.sink.openings >= 1


async def test_submits_are_journalled_before_their_first_byte_and_answered_in_bursts(make):
    rig = await make()
    await until(rig.channel.is_up)
    submits = some_submits(10)
    assert rig.channel.submit(submits) == []
    await until(lambda: len(rig.sink.results) == 10)
    assert rig.writes_at_first_byte == 10
    assert [submit for submit, _ in rig.sink.results] == submits
    assert all(isinstance(outcome, Submitted) for _, outcome in rig.sink.results)
    assert len({outcome.carrier_id for _, outcome in rig.sink.results}) == 10
    assert len(rig.sink.bursts) < 10
    assert all(submit.sent_at > 0 for submit in submits)
    assert rig.channel.free() == 16


@pytest.mark.parametrize("switch", ["lease", "journal_works"])
async def test_without_lease_or_journal_nothing_leaves(make, switch):
    rig = await make()
    await until(rig.channel.is_up)
    setattr(rig.sink, switch, False)
    submits = some_submits(3)
    assert rig.channel.submit(submits) == submits
    await asyncio.sleep(0.05)
    assert rig.numbers == []
    assert rig.channel.free() == 16


async def test_before_the_login_everything_comes_back(make):
    rig = await make()
    submits = some_submits(2)
    assert not rig.channel.is_up()
    assert rig.channel.free() == 0
    assert rig.channel.submit(submits) == submits


async def test_the_tail_that_finds_no_slot_comes_back_in_order(make):
    rig = await make(sessions=2, window=3)
    await until(lambda: rig.channel.window() == 6)
    rig.holds = True
    submits = some_submits(9)
    assert rig.channel.submit(submits) == submits[6:]
    assert rig.channel.free() == 0
    assert rig.sink.written == submits[:6]
    await until(lambda: sum(map(len, rig.numbers)) == 6)
    before = rig.sink.openings
    rig.answer_held()
    await until(lambda: len(rig.sink.results) == 6)
    assert rig.sink.openings > before


async def test_segments_of_one_message_stay_in_one_session(make):
    rig = await make(sessions=2, window=5)
    await until(lambda: rig.channel.window() == 10)
    rig.holds = True
    messages = [a_message(segments=count) for count in (2, 3, 1, 2)]
    submits = [submit for message in messages for submit in submits_of(message)]
    assert rig.channel.submit(submits) == []
    await until(lambda: sum(map(len, rig.numbers)) == 8)
    for count in (2, 3):
        for index in range(1, count + 1):
            header = bytes((5, 0, 3, 7, count, index)).hex()
            sessions = [n for n, seen in enumerate(rig.numbers) for body in seen if header in body]
            assert len(sessions) in (1, 2)  # two messages have two segments
    for seen in rig.numbers:
        firsts = [body[10:12] for body in seen if body.startswith("0500030702")]
        assert firsts == ["01", "02"] * (len(firsts) // 2)


async def test_a_message_that_does_not_fit_waits_whole_and_one_over_the_window_goes_in_pieces(make):
    rig = await make(sessions=1, window=4)
    await until(rig.channel.is_up)
    rig.holds = True
    first, second = submits_of(a_message(segments=3)), submits_of(a_message(segments=2))
    assert rig.channel.submit([*first, *second]) == second
    rig.answer_held()
    await until(lambda: rig.numbers and len(rig.numbers[0]) == 3)
    rig.answer_held()
    await until(lambda: rig.channel.free() == 4)
    long = submits_of(a_message(segments=6))
    assert rig.channel.submit(long) == long[4:]


async def test_a_lost_link_makes_each_open_submit_uncertain_once_and_comes_back(make):
    rig = await make()
    await until(rig.channel.is_up)
    rig.holds = True
    submits = some_submits(5)
    rig.channel.submit(submits)
    await until(lambda: rig.numbers and len(rig.numbers[0]) == 5)
    rig.drop()
    await until(lambda: len(rig.sink.links) == 2)
    assert [(s, type(o)) for s, o in rig.sink.results] == [(s, Uncertain) for s in submits]
    await until(lambda: len(rig.sink.links) == 3)
    assert [is_up for is_up, _ in rig.sink.links] == [True, False, True]
    assert rig.channel.free() == 16
    assert len(rig.sink.results) == 5


async def test_one_of_two_links_lost_is_not_the_end_of_the_channel(make):
    rig = await make(sessions=2, window=4, reconnect_min_s=5.0)
    await until(lambda: rig.channel.window() == 8)
    next(peer for peer in rig.peers if peer.session.may_submit).transport.abort()
    await until(lambda: rig.channel.window() == 4)
    assert rig.channel.is_up()
    assert [is_up for is_up, _ in rig.sink.links] == [True]


async def test_too_fast_is_throttled_and_frees_the_slot(make):
    rig = await make()
    await until(rig.channel.is_up)
    rig.throttles = True
    rig.channel.submit(some_submits(2))
    await until(lambda: len(rig.sink.results) == 2)
    assert all(isinstance(outcome, Throttled) for _, outcome in rig.sink.results)
    assert rig.channel.free() == 16


async def test_a_time_out_is_uncertain_and_the_late_answer_is_told_with_the_same_submit(make):
    rig = await make(window=1, submit_timeout_s=0.2, submit_timeout_otp_s=0.2)
    await until(rig.channel.is_up)
    rig.holds = True
    submits = some_submits(1)
    rig.channel.submit(submits)
    await until(lambda: rig.sink.results)
    assert isinstance(rig.sink.results[0][1], Uncertain)
    assert rig.channel.free() == 0
    assert [*rig.channel.waiting()] == submits  # it still does, as its slot
    rig.answer_held()
    await until(lambda: len(rig.sink.results) == 2)
    submit, outcome = rig.sink.results[1]
    assert submit is submits[0]
    assert isinstance(outcome, Submitted)
    assert rig.channel.free() == 1
    assert [*rig.channel.waiting()] == []


async def test_reports_are_answered_only_when_told(make):
    rig = await make()
    await until(lambda: rig.channel.is_up() and rig.channel.is_receiving())
    rig.report(1, 2, 3)
    await until(lambda: len(rig.sink.received) == 3)
    await asyncio.sleep(0.03)
    assert (rig.taken, rig.again) == (0, 0)
    tokens = [report.token for report in rig.sink.received]
    rig.channel.answer(tokens[:2], accepted=True)
    rig.channel.answer(tokens[2:], accepted=False)
    await until(lambda: (rig.taken, rig.again) == (2, 1))


async def test_a_report_may_be_faster_than_its_answer_and_come_twice_over_another_session(make):
    """The id it names is the one that the answer says: what matches them has nothing else."""
    rig = await make(sessions=2)
    await until(lambda: rig.channel.window() == 32 and len(rig.receivers()) == 2)
    rig.holds = True
    submits = some_submits(3)
    assert rig.channel.submit(submits) == []
    await until(lambda: rig.numbers and len(rig.numbers[0]) == 3)
    told = rig.report_held()
    rig.report_held()
    await until(lambda: len(rig.sink.received) == 6)
    rig.answer_held()
    await until(lambda: len(rig.sink.results) == 3)
    await asyncio.sleep(0.02)
    assert len(rig.sink.results) == 3
    given = {id(submit): outcome.carrier_id for submit, outcome in rig.sink.results}
    assert [given[id(submit)] for submit in submits] == told[::-1]
    assert [report.carrier_id for report in rig.sink.received] == told * 2
    assert {report.number for report in rig.sink.received} <= {"8613800138000", ""}
    assert {report.state for report in rig.sink.received} == {"DELIVRD"}


async def test_a_dead_peer_is_noticed_by_the_kernel(make):
    """RELIABILITY section 4, whatever the protocol's own link test does."""
    rig = await make()
    await until(rig.channel.is_up)
    tcp = socket.IPPROTO_TCP
    wanted = {
        (tcp, socket.TCP_USER_TIMEOUT): 10_000,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
        (tcp, socket.TCP_KEEPIDLE): 5,
        (tcp, socket.TCP_KEEPINTVL): 2,
        (tcp, socket.TCP_KEEPCNT): 3,
        (tcp, socket.TCP_NODELAY): 1,
    }
    assert rig.channel._links
    for link in rig.channel._links:
        sock = link._transport.get_extra_info("socket")
        assert {option: sock.getsockopt(*option) for option in wanted} == wanted


async def test_the_carrier_s_link_test_is_answered_and_ours_ends_a_deaf_session(make, monkeypatch):
    """SGIP has no link test: an idle connection stays, and only the kernel watches it."""
    monkeypatch.setattr(shell, "TICK_S", 0.02)
    rig = await make()
    await until(rig.channel.is_up)
    logins = rig.bursts
    rig.enquire()
    has_tests = rig.protocol != "sgip"
    if has_tests:
        await until(lambda: rig.bursts == logins + 1)
    rig = await make(link_test_s=0.1, response_timeout_s=0.2, reconnect_min_s=30.0)
    await until(rig.channel.is_up)
    await asyncio.sleep(0.5)
    assert rig.channel.is_up()
    assert (rig.bursts > 2) is has_tests
    rig.is_deaf = True
    if has_tests:
        await until(lambda: not rig.channel.is_up())
        assert "was not answered" in rig.sink.links[-1][1]
    else:
        await asyncio.sleep(0.5)
        assert rig.channel.is_up()


async def test_tokens_of_a_session_that_is_over_are_ignored(make):
    rig = await make()
    await until(lambda: rig.channel.is_up() and rig.channel.is_receiving())
    rig.report(1)
    await until(lambda: rig.sink.received)
    rig.drop()
    await until(lambda: len(rig.sink.links) == 3)
    rig.channel.answer([rig.sink.received[0].token, object()], accepted=True)
    await asyncio.sleep(0.03)
    assert rig.taken == 0
    assert rig.channel.is_up()


async def test_a_refused_login_is_tried_again_until_it_is_taken(make):
    rig = await make()
    rig.refuses_login = True
    await until(lambda: rig.logins >= 3)
    assert not rig.channel.is_up()
    assert rig.sink.links == []
    rig.refuses_login = False
    await until(rig.channel.is_up)


def _has_failed(rig, least):
    return rig.channel.failures >= least


async def test_a_login_that_is_taken_and_closed_at_once_counts_as_refused(make):
    """So that the next one waits longer each time: do not hammer."""
    rig = await make()
    for times in (1, 2):
        await until(rig.channel.is_up)
        rig.drop()
        await until(lambda: not rig.channel.is_up())
        await until(partial(_has_failed, rig, times))


async def test_the_stop_waits_for_answers_and_logs_out(make):
    rig = await make(sessions=2)
    await until(lambda: rig.channel.window() == 32)
    rig.holds = True
    submits = some_submits(4)
    rig.channel.submit(submits)
    await until(lambda: sum(map(len, rig.numbers)) == 4)
    stopping = asyncio.create_task(rig.channel.stop(5.0))
    await asyncio.sleep(0.05)
    assert rig.channel.submit(some_submits(1)) != []
    assert not stopping.done()
    rig.answer_held()
    await stopping
    assert rig.logouts == rig.channel.places()
    assert all(isinstance(outcome, Submitted) for _, outcome in rig.sink.results)
    assert not rig.channel.is_up()


async def test_the_stop_answers_what_the_carrier_brought_before_it_logs_out(make):
    """A report that is being committed: nobody knows when the carrier would bring it again."""
    rig = await make()
    await until(rig.channel.is_up)
    await until(rig.channel.is_receiving)
    rig.report(1, 2)
    await until(lambda: len(rig.sink.received) == 2)
    stopping = asyncio.create_task(rig.channel.stop(5.0))
    await asyncio.sleep(0.05)
    assert rig.logouts == 0
    rig.channel.answer([report.token for report in rig.sink.received], accepted=True)
    await stopping
    assert (rig.taken, rig.logouts) == (2, rig.channel.places())


async def test_a_stop_without_answers_ends_in_time_with_each_submit_uncertain(make):
    rig = await make()
    await until(rig.channel.is_up)
    rig.holds = True
    rig.channel.submit(some_submits(3))
    async with asyncio.timeout(8):  # at its own time-outs it would take 10
        await rig.channel.stop(0.1)
    assert [type(outcome) for _, outcome in rig.sink.results] == [Uncertain] * 3


async def test_a_stop_while_it_cannot_connect_is_quick(make):
    rig = await make(reconnect_min_s=30.0)
    await until(rig.channel.is_up)
    rig.server.close()
    rig.drop()
    await until(lambda: not rig.channel.is_up())
    async with asyncio.timeout(8):  # of the 10 it may take
        await rig.channel.stop(10.0)
