"""The channel of HTTP vendors against a vendor in the same loop, over real sockets."""

import asyncio
import contextlib
import ssl
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import Lost
from adapters.http import book, channel, client, pulling
from adapters.http.vendor import Traits, reference_of
from sms.model import MessageClass
from sms.outcomes import Cause, NotSent, Rejected, Submitted, Uncertain
from tests.support.certificates import Authority
from tests.support.http_rig import CUT, GOOD, PLANS, UNREADABLE, HttpRig, a_submit, until


@pytest.fixture(autouse=True)
def _is_quick(monkeypatch):
    """Time-outs are looked for often, and questions come soon."""
    monkeypatch.setattr(channel, "TICK_S", 0.005)
    monkeypatch.setattr(book, "FIRST_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(pulling, "AGAIN_S", 0.01)


@pytest.fixture
async def rigs():
    """Makes rigs, and stops them."""
    made = []

    def make(**options):
        made.append(HttpRig(**options))
        return made[-1]

    yield make
    for rig in made:
        rig.release.set()
        await rig.stop()


async def answered(rig, *submits):
    """Wait until each has an outcome."""
    await until(lambda: all(rig.outcomes_of(submit) for submit in submits))


def kinds(rig, submit):
    return [type(outcome).__name__ for outcome in rig.outcomes_of(submit)]


async def test_a_burst_is_journalled_once_before_its_first_byte_and_each_is_answered(rigs):
    rig = rigs()
    http = await rig.start()
    submits = [a_submit() for _ in range(5)]
    assert http.submit(submits) == []
    assert all(submit.sent_at for submit in submits)
    assert http.free() == 11
    await until(lambda: len(rig.sink.results) == 5)
    assert rig.journaled_at_first_byte == 5
    for submit in submits:
        assert rig.outcomes_of(submit) == [Submitted(f"id-{reference_of(submit)}")]
    assert http.free() == http.window() == 16
    assert rig.sink.openings >= 2


async def test_what_finds_no_slot_comes_back_unjournalled(rigs):
    rig = rigs(window=2)
    rig.plan = lambda _: "held"
    http = await rig.start()
    submits = [a_submit() for _ in range(3)]
    assert http.submit(submits) == submits[2:]
    assert rig.sink.written == submits[:2]
    assert submits[2].sent_at == 0.0
    assert http.submit(submits[2:]) == submits[2:]


async def test_connections_are_kept(rigs):
    rig = rigs()
    http = await rig.start()
    for _ in range(3):
        submit = a_submit()
        http.submit([submit])
        await answered(rig, submit)
    assert rig.connections == 2  # the probe's, and one for all
    assert b"Accept" not in rig.heads[0]
    assert b"User-Agent: smsgw\r\n" in rig.heads[0]


async def test_a_vendor_that_cannot_be_reached_is_down_with_a_remedy_and_up_when_it_can(rigs):
    rig = rigs()
    await rig.listen()
    await rig.deaf()
    http = rig.make()
    http.start()
    await until(lambda: "check the address" in http.why_down())
    assert not http.is_up()
    assert http.free() == http.window() == 0
    assert http.failures > 0
    submits = [a_submit()]
    assert http.submit(submits) == submits
    await rig.listen()
    await until(http.is_up)
    assert rig.sink.links == [(True, "connected")]
    assert http.why_down() == ""


@pytest.mark.parametrize("endpoint", ["", "https://", "no address"])
async def test_an_address_that_is_known_with_the_message_only_is_not_tried_before(rigs, endpoint):
    rig = rigs()
    http = rig.make()
    rig.vendor.endpoint = endpoint
    http.start()
    await until(http.is_up)


async def test_what_was_certainly_not_written_is_not_sent_and_five_failures_take_it_down(rigs):
    rig = rigs()
    http = await rig.start()
    await rig.deaf()
    submits = [a_submit() for _ in range(5)]
    http.submit(submits[:4])
    await until(lambda: len(rig.sink.results) == 4)
    assert http.is_up()
    http.submit(submits[4:])
    await until(lambda: len(rig.sink.results) == 5)
    assert {kind for submit in submits for kind in kinds(rig, submit)} == {"NotSent"}
    assert [is_up for is_up, _ in rig.sink.links] == [True, False]
    assert "check the address" in rig.sink.links[-1][1]
    await rig.listen()
    await until(http.is_up)
    assert not rig.seen


async def test_no_answer_in_time_is_uncertain_once_and_the_late_answer_comes_behind(rigs):
    rig = rigs(submit_timeout_s=0.02)
    rig.plan = lambda _: "held"
    http = await rig.start()
    submit = a_submit()
    http.submit([submit])
    await until(lambda: rig.outcomes_of(submit))
    assert rig.outcomes_of(submit) == [Uncertain("channel.timeout")]
    assert http.free() == 15  # its slot stays taken
    assert [*http.waiting()] == [submit]
    await asyncio.sleep(0.03)
    assert len(rig.outcomes_of(submit)) == 1
    rig.release.set()
    await until(lambda: len(rig.outcomes_of(submit)) == 2)
    assert isinstance(rig.outcomes_of(submit)[1], Submitted)
    assert http.free() == 16
    assert [*http.waiting()] == []
    assert rig.seen[reference_of(submit)] == 1


async def test_the_time_out_is_the_class_s_own(rigs):
    rig = rigs(submit_timeout_otp_s=0.02)
    rig.plan = lambda _: "held"
    http = await rig.start()
    otp, other = a_submit(message_class=MessageClass.OTP), a_submit()
    http.submit([otp, other])
    await until(lambda: rig.outcomes_of(otp))
    assert not rig.outcomes_of(other)


async def test_a_slot_is_free_again_when_no_answer_came_for_long(rigs):
    rig = rigs(submit_timeout_s=0.01, uncertain_slot_s=0.05)
    rig.plan = lambda _: "held"
    http = await rig.start()
    submit = a_submit()
    http.submit([submit])
    await until(lambda: rig.outcomes_of(submit))
    await until(lambda: http.free() == 16)
    assert kinds(rig, submit) == ["Uncertain"]


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("plan", [*CUT, *UNREADABLE])
async def test_what_was_written_and_not_answered_is_uncertain_and_never_written_again(
    rigs, plan, method
):
    rig = rigs(method=method)
    http = await rig.start()
    first, submit = a_submit(), a_submit()
    http.submit([first])  # so that the next goes over a kept connection
    await until(lambda: rig.outcomes_of(first))
    rig.plan = lambda _: plan
    http.submit([submit])
    await until(lambda: rig.outcomes_of(submit))
    await asyncio.sleep(0.01)
    assert kinds(rig, submit) == ["Uncertain"]
    assert rig.seen[reference_of(submit)] == 1
    assert http.is_up()


async def test_batches_hold_what_the_vendor_takes_together_and_no_number_twice(rigs):
    rig = rigs(window=100, traits=Traits(batch=4), settings={"max_batch": 3})
    http = await rig.start()
    submits = [a_submit() for _ in range(7)] + [a_submit("8613800000001") for _ in range(2)]
    http.submit(submits)
    await until(lambda: len(rig.sink.results) == 9)
    assert sorted(map(len, rig.requests)) == [1, 2, 3, 3]
    twins = {reference_of(submit) for submit in submits[7:]}
    assert not any(twins <= set(request) for request in rig.requests)
    assert all(kinds(rig, submit) == ["Submitted"] for submit in submits)
    assert http.free() == 100


async def test_who_cannot_be_said_is_refused_alone(rigs):
    rig = rigs(traits=Traits(batch=4))
    http = await rig.start()
    submits = [a_submit() for _ in range(3)]
    rig.vendor.cannot = {submits[1].number}
    http.submit(submits)
    await until(lambda: len(rig.sink.results) == 3)
    assert rig.outcomes_of(submits[1]) == [
        Rejected("no_template", Cause.CONTENT, "content.template")
    ]
    assert kinds(rig, submits[0]) == kinds(rig, submits[2]) == ["Submitted"]
    assert http.free() == 16


BAD = Rejected("bad", Cause.NUMBER, "recipient.invalid")


@pytest.mark.parametrize(("blames", "most"), [(False, 9), (True, 2)])
async def test_one_bad_member_of_a_batch_is_found_and_the_others_are_taken(rigs, blames, most):
    rig = rigs(traits=Traits(batch=16))
    http = await rig.start()
    submits = [a_submit() for _ in range(16)]
    rig.vendor.faulty, rig.vendor.blames = {submits[5].number}, blames
    http.submit(submits)
    await until(lambda: len(rig.sink.results) == 16)
    assert rig.outcomes_of(submits.pop(5)) == [BAD]
    assert {tuple(kinds(rig, submit)) for submit in submits} == {("Submitted",)}
    assert len(rig.requests) == most
    assert http.free() == 16
    assert len(rig.sink.written) == 16  # one line each: none was taken before


async def test_when_all_of_a_batch_are_bad_each_gets_its_verdict(rigs):
    rig = rigs(traits=Traits(batch=4))
    http = await rig.start()
    submits = [a_submit() for _ in range(4)]
    rig.vendor.faulty = {submit.number for submit in submits}
    http.submit(submits)
    await until(lambda: len(rig.sink.results) == 4)
    assert [rig.outcomes_of(submit) for submit in submits] == [[BAD]] * 4
    assert len(rig.requests) == 7


async def test_a_batch_that_was_given_up_and_refused_later_goes_nowhere_again(rigs):
    rig = rigs(traits=Traits(batch=4), submit_timeout_s=0.02)
    rig.plan = lambda _: "held"
    http = await rig.start()
    submits = [a_submit() for _ in range(4)]
    rig.vendor.faulty = {submits[0].number}
    http.submit(submits)
    await until(lambda: len(rig.sink.results) == 4)
    rig.release.set()
    await until(lambda: len(rig.sink.results) == 8)
    for submit in submits:
        assert rig.outcomes_of(submit)[1:] == [NotSent("evidence.not_accepted")]
    assert len(rig.requests) == 1
    assert http.free() == 16


@pytest.mark.parametrize("why", ["validity", "stop"])
async def test_a_refused_batch_without_time_left_is_put_back(rigs, why):
    rig = rigs(traits=Traits(batch=4))
    rig.plan = lambda _: "held"
    http = await rig.start()
    submits = [a_submit() for _ in range(4)]
    rig.vendor.faulty = {submits[0].number}
    http.submit(submits)
    await until(lambda: rig.seen)
    if why == "validity":
        submits[3].message.valid_until = time.time()
    stopping = asyncio.create_task(http.stop(1.0)) if why == "stop" else None
    await asyncio.sleep(0)
    rig.release.set()
    await until(lambda: len(rig.sink.results) == 4)
    assert {tuple(kinds(rig, submit)) for submit in submits} == {("NotSent",)}
    assert len(rig.requests) == 1
    if stopping is not None:
        await stopping


async def test_a_bug_of_ours_costs_its_request_only(rigs):
    rig = rigs()
    http = await rig.start()
    before, after, well = a_submit(), a_submit(), a_submit()
    for submit, place in ((before, "send"), (after, "read"), (well, "")):
        rig.vendor.is_broken_in = place
        http.submit([submit])
        await answered(rig, submit)
    assert rig.outcomes_of(before) == [Rejected("", Cause.CHANNEL, "internal.error")]
    assert rig.outcomes_of(after) == [Uncertain("internal.error")]
    assert kinds(rig, well) == ["Submitted"]
    assert http.faults == 2
    assert http.free() == 16


async def test_without_a_lease_nothing_leaves_even_of_what_was_taken(rigs):
    rig = rigs()
    http = await rig.start()
    submit, late = a_submit(), a_submit()
    http.submit([submit])
    rig.sink.lease = False  # it is connecting
    await until(lambda: rig.outcomes_of(submit))
    assert kinds(rig, submit) == ["NotSent"]
    assert http.submit([late]) == [late]
    assert not rig.seen


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_without_a_lease_what_a_socket_did_not_take_is_dropped_and_uncertain(rigs):
    rig = rigs()
    http = await rig.start()
    small, large = a_submit(), a_submit()
    rig.plan = lambda _: "held"
    http.submit([small])
    await until(lambda: rig.seen)
    rig.is_deaf = True
    send = rig.vendor.send

    def long_request(submits, unix, nonce):
        request = send(submits, unix, nonce)
        return type(request)(request.method, request.url, request.headers, b" " * 16_000_000)

    rig.vendor.send = long_request
    http.submit([large])
    await until(lambda: any(one.flight.has_unwritten() for one in http._sendings))
    http.cut_unwritten()
    await until(lambda: rig.outcomes_of(large))
    assert kinds(rig, large) == ["Uncertain"]
    assert not rig.outcomes_of(small)  # it left whole: its answer is awaited


async def test_stopping_waits_for_answers_and_what_stays_open_is_uncertain(rigs):
    rig = rigs()
    slow, held = a_submit(), a_submit()
    rig.plan = {reference_of(slow): "slow", reference_of(held): "held"}.__getitem__
    http = await rig.start()
    http.submit([slow, held])
    await until(lambda: len(rig.seen) == 2)
    await http.stop(0.1)
    assert kinds(rig, slow) == ["Submitted"]
    assert rig.outcomes_of(held) == [Uncertain("channel.link_lost")]
    late = a_submit()
    assert http.submit([late]) == [late]


async def test_stopping_at_once_loses_nothing(rigs):
    rig = rigs()
    http = await rig.start()
    submits = [a_submit() for _ in range(3)]
    http.submit(submits)
    await http.stop(0.0)
    for submit in submits:
        assert len(rig.outcomes_of(submit)) == 1
        if kinds(rig, submit) == ["NotSent"]:
            assert not rig.seen[reference_of(submit)]


async def test_a_lost_answer_is_found_by_asking(rigs):
    rig = rigs(traits=Traits(asks=True))
    rig.plan = lambda _: "cut"
    http = await rig.start()
    assert http.can_ask
    submit = a_submit()
    http.submit([submit])
    await until(lambda: rig.outcomes_of(submit))
    rig.told = {"verdict": "silent"}
    http.ask([Lost(submit, time.time() - 100, 0.0)])
    http.ask([Lost(submit, time.time() - 100, 0.0)])
    await until(lambda: len(rig.asked) >= 2)
    rig.told = {"verdict": "ended", "id": "x1", "state": "DELIVRD"}
    await until(lambda: rig.sink.received)
    assert rig.outcomes_of(submit)[1:] == [Submitted("x1")]
    [report] = rig.sink.received
    rig.sink.received.clear()
    http.answer([report.token], accepted=False)  # not durable: it comes again
    await until(lambda: rig.sink.received)
    http.answer([report.token], accepted=True)
    asked = len(rig.asked)
    await asyncio.sleep(0.05)
    assert len(rig.asked) == asked
    assert rig.sink.received == [report]


async def test_an_overdue_receipt_is_asked_for_under_its_id(rigs):
    rig = rigs(traits=Traits(asks=True))
    http = await rig.start()
    submit = a_submit()
    rig.told = {"verdict": "ended", "id": "x1", "state": "DELIVRD"}
    http.ask([Lost(submit, time.time() - 4000, 0.0, "x1")])
    await until(lambda: rig.sink.received)
    [report] = rig.sink.received
    assert (report.carrier_id, report.state) == ("x1", "DELIVRD")
    assert rig.outcomes_of(submit) == []  # its answer was not lost
    assert len(rig.asked) == 1


async def test_what_cannot_be_asked_about_is_tried_once(rigs, capsys):
    rig = rigs(traits=Traits(asks=True))
    http = await rig.start()
    submit = a_submit()
    rig.vendor.cannot_ask = True
    http.ask([Lost(submit, time.time() - 100, 0.0)])
    await until(lambda: rig.vendor.questions)
    await until(lambda: not len(http._asker.book))
    await asyncio.sleep(0.05)
    assert rig.vendor.questions == 1
    assert "a question to the vendor failed" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("absent_after_s", "count"), [(None, 0), (1e9, 0), (1.0, 1)])
async def test_that_it_never_accepted_it_is_proof_only_where_the_vendor_s_word_is(
    rigs, absent_after_s, count
):
    rig = rigs(traits=Traits(asks=True, absent_after_s=absent_after_s))
    http = await rig.start()
    submit = a_submit()
    rig.told = {"verdict": "absent"}
    http.ask([Lost(submit, time.time() - 100, 0.0)])
    if count:
        await until(lambda: rig.sink.results)
    else:
        await until(lambda: len(rig.asked) > 3)
    assert rig.outcomes_of(submit) == [NotSent("evidence.not_accepted")] * count


async def test_a_request_that_is_still_open_is_not_absent(rigs):
    rig = rigs(traits=Traits(asks=True, absent_after_s=0.001), submit_timeout_s=0.01)
    rig.plan = lambda _: "held"
    http = await rig.start()
    submit = a_submit()
    http.submit([submit])
    await until(lambda: rig.outcomes_of(submit))
    rig.told = {"verdict": "absent"}
    http.ask([Lost(submit, time.time() - 100, 0.0)])
    await until(lambda: len(rig.asked) > 3)
    assert kinds(rig, submit) == ["Uncertain"]
    rig.release.set()
    await until(lambda: len(rig.outcomes_of(submit)) == 2)
    assert kinds(rig, submit) == ["Uncertain", "Submitted"]


@pytest.mark.parametrize(("found", "later"), [("x1", 1), (None, 0)])
async def test_a_late_answer_tells_another_id_than_was_found_by_asking(rigs, found, later):
    rig = rigs(traits=Traits(asks=True), submit_timeout_s=0.01)
    rig.plan = lambda _: "held"
    http = await rig.start()
    submit = a_submit()
    http.submit([submit])
    await until(lambda: rig.outcomes_of(submit))
    theirs = f"id-{reference_of(submit)}"
    rig.told = {"verdict": "taken", "id": found or theirs}
    http.ask([Lost(submit, time.time() - 100, 0.0)])
    await until(lambda: len(rig.outcomes_of(submit)) == 2)
    rig.release.set()
    await until(lambda: http.free() == 16)
    await asyncio.sleep(0.01)
    assert rig.outcomes_of(submit)[1:] == [
        Submitted(found or theirs),
        *[Submitted(theirs)] * later,
    ]


async def test_a_receipt_that_stays_away_is_asked_for(rigs):
    rig = rigs(traits=Traits(asks=True), settings={"ask_after_s": 1})
    http = await rig.start()
    http._asker.book._after_s = 0.01
    submit = a_submit()
    http.submit([submit])
    rig.told = {"verdict": "ended", "id": "x1", "state": "UNDELIV"}
    await until(lambda: rig.sink.received)
    assert kinds(rig, submit) == ["Submitted"]
    assert rig.sink.received[0].state == "UNDELIV"


async def test_what_is_not_pushed_is_pulled_and_kept_until_it_is_durable(rigs):
    rig = rigs(traits=Traits(pulls=True), settings={"pull_every_s": 1})
    rig.pulls = {"receipts": [["a"], ["b"]], "inbound": [["TD"]]}
    http = await rig.start()
    await until(lambda: rig.sink.received and rig.sink.texts)
    assert rig.pulls["receipts"] == [["b"]]  # not before the first is durable
    [first] = rig.sink.received
    http.answer([first.token, rig.sink.texts[0].token], accepted=False)
    await until(lambda: len(rig.sink.received) == 2)
    assert rig.sink.received[1] is first
    http.answer([first.token, rig.sink.texts[0].token], accepted=True)
    await until(lambda: len(rig.sink.received) == 3)
    assert [one.carrier_id for one in rig.sink.received] == ["a", "a", "b"]


async def test_what_a_replaced_channel_pulled_and_nobody_kept_is_handed_over_by_the_next(rigs):
    before, after = rigs(traits=Traits(pulls=True), settings={"pull_every_s": 1}), rigs()
    before.pulls = {"receipts": [["a"]], "inbound": []}
    await before.start()
    await until(lambda: before.sink.received)
    http = await after.start()
    http.answer([before.sink.received[0].token], accepted=False)
    await until(lambda: after.sink.received)
    assert [one.carrier_id for one in after.sink.received] == ["a"]


async def test_tls_is_verified(rigs, tmp_path):
    authority = Authority()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue("localhost").file(tmp_path / "vendor.pem"))
    stranger = rigs(tls=context)
    await stranger.listen()
    stranger.make().start()
    await until(lambda: "certificate" in stranger.channel.why_down())
    assert "ca_file" in stranger.channel.why_down()
    known = rigs(tls=context, settings={"ca": authority.cert})
    http = await known.start()
    submit = a_submit()
    http.submit([submit])
    await until(lambda: known.outcomes_of(submit))
    assert kinds(known, submit) == ["Submitted"]


async def test_plain_http_goes_through_the_proxy_with_its_login(rigs):
    rig = rigs(settings={"proxy_user": "u", "proxy_password": "p"})
    await rig.listen()
    rig._settings["proxy"] = f"http://localhost:{rig.port}"
    http = rig.make()
    rig.vendor.endpoint = "http://sms.example.invalid"
    http.start()
    await until(http.is_up)
    submit = a_submit()
    http.submit([submit])
    await until(lambda: rig.outcomes_of(submit))
    assert kinds(rig, submit) == ["Submitted"]
    assert rig.heads[0].startswith(b"POST http://sms.example.invalid/send HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dTpw\r\n" in rig.heads[0]


class Proxy:
    """A proxy for CONNECT that answers with one status, and on 200 carries to a port."""

    def __init__(self, status, port):
        self.status, self.target = status, port
        self.heads = []
        self.writers = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for writer in self.writers:
            writer.close()
        for writer in self.writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader, writer):
        self.writers.append(writer)
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 %d So\r\n\r\n" % self.status)
            if self.status == 200:
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.target)
                self.writers.append(inner_writer)
                await asyncio.gather(_carry(reader, inner_writer), _carry(inner_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _carry(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def test_tls_goes_through_the_proxy_whose_connect_is_no_request_of_ours(
    rigs, tmp_path, monkeypatch
):
    monkeypatch.setattr(client, "KEEPALIVE_S", 60.0)  # a slow machine is no new connection
    authority = Authority()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue("localhost").file(tmp_path / "vendor.pem"))
    # no look at an idle link in between: it would be one connection more
    rig = rigs(tls=context, settings={"ca": authority.cert}, reconnect_max_s=60.0)
    await rig.listen()
    async with Proxy(200, rig.port) as proxy:
        rig._settings["proxy"] = f"http://localhost:{proxy.port}"
        http = rig.make()
        http.start()
        await until(http.is_up)
        for _ in range(2):
            submit = a_submit()
            http.submit([submit])
            await answered(rig, submit)
            assert kinds(rig, submit) == ["Submitted"]
        assert {head.split()[0] for head in proxy.heads} == {b"CONNECT"}
        assert len(proxy.heads) == 2  # the probe's, and one connection for both
        await http.stop(0.05)


async def test_a_proxy_that_refuses_proves_that_nothing_was_written(rigs):
    async with Proxy(200, 0) as proxy:
        rig = rigs(settings={"proxy": f"http://localhost:{proxy.port}"})
        proxy.status = 407
        http = rig.make()
        rig.vendor.endpoint = "https://sms.example.invalid"
        http.start()
        await until(lambda: "the proxy refused" in http.why_down())
        assert "proxy_user" in http.why_down()
        assert not http.is_up()


@given(
    plans=st.lists(st.sampled_from([*PLANS, "held"]), min_size=1, max_size=12),
    batch=st.integers(1, 3),
    method=st.sampled_from(["POST", "GET"]),
    bursts=st.integers(1, 4),
)
@settings(max_examples=30)
def test_whatever_the_vendor_does_each_submit_has_one_first_outcome_and_leaves_once(
    plans, batch, method, bursts
):
    asyncio.run(_whatever(plans, batch, method, bursts))


async def _whatever(plans, batch, method, bursts):
    rig = HttpRig(window=8, traits=Traits(batch=batch), method=method, submit_timeout_s=0.02)
    words = iter(plans * 10)
    planned = {}

    def plan(reference):
        planned[reference] = next(words)
        return planned[reference]

    rig.plan = plan
    http = await rig.start()
    submits = [a_submit() for _ in range(len(plans) * batch)]
    waiting = list(submits)
    while waiting:
        step = max(1, len(waiting) // bursts)
        waiting = http.submit(waiting[:step]) + waiting[step:]
        await asyncio.sleep(0.001)
        if not http.free():
            rig.release.set()
    await until(lambda: len({id(submit) for submit, _ in rig.sink.results}) == len(submits))
    rig.release.set()
    await rig.stop(0.5)
    for submit in submits:
        found = rig.outcomes_of(submit)
        first, late = found[0], found[1:]
        times = rig.seen[reference_of(submit)]
        assert times <= 1
        assert isinstance(first, Submitted | Uncertain | NotSent)
        assert times == 0 if isinstance(first, NotSent) else times == 1
        assert not late or (
            first == Uncertain("channel.timeout") and [type(one) for one in late] == [Submitted]
        )
    for request in rig.requests:
        word = planned[request[0]]
        if word not in (*GOOD, "held"):
            mine = [one for one in submits if reference_of(one) in request]
            assert {kind for one in mine for kind in kinds(rig, one)} == {"Uncertain"}
