"""The second direction: the SMG connects to us, logs in and brings reports and texts.

    connection ─▶ address on a channel's list? ─▶ BIND, type 2 ─▶ name and password ─▶ its channel

One door per process; the processes of a node share the listening socket, so a connection may come
to one that holds no session of its channel. Whatever a peer does ends its own connection only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final, assert_never, cast

from adapters.base import ChannelSink
from adapters.session import (
    Answered,
    Bound,
    Ended,
    Event,
    Received,
    Reported,
    SessionPolicy,
    SessionState,
)
from adapters.sgip.channel import common_of
from adapters.sgip.session import Account, SgipGuest
from adapters.sgip.settings import SgipSettings, parse
from adapters.shell import WRITE_BUFFER_HIGH, log_fault, set_options
from sms import config
from sms.errors import ConfigError
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger, mask_words

log = get_logger(__name__)

PROTOCOL: Final = "sgip"
GUESTS_MAXIMUM: Final = 256  # connections at once, over all channels
GUESTS_OF_ACCOUNT: Final = 32  # that are logged in; for one more the quietest is closed
STRANGERS_OF_ADDRESS: Final = 8  # that are not logged in
TICK_S: Final = 1.0
LOGOUT_S: Final = 2.0  # the answer to UNBIND is awaited so long; nothing depends on it
LOOK_S: Final = 0.02
REMIND_S: Final = 60.0  # a refusal for the same reason is logged again this often
UNLISTED: Final = "its address is on no channel's smg_allow"


class _Guest(asyncio.Protocol):
    """One connection of an SMG."""

    def __init__(self, door: Door) -> None:
        self.session: SgipGuest | None = None  # None: its address is on no list
        self.address = ""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._door = door
        self._transport: asyncio.Transport | None = None

    def flush(self) -> None:
        """Write what the session has queued, in one call."""
        transport = self._transport
        data = self.session.to_send() if self.session is not None else b""
        if data and transport is not None and not transport.is_closing():
            transport.write(data)

    def close(self, reason: str) -> None:
        """Write what is left and close; later calls do nothing."""
        transport = self._transport
        if transport is None:
            return
        self.flush()
        self._transport = None
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()
        self._door.left(self, reason)

    # -- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look at its address; the login is for the peer to begin."""
        # a cast, because uvloop's transports are no subclass of asyncio's
        self._transport = tcp = cast("asyncio.Transport", transport)
        peer = tcp.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self.session = self._door.welcome(self)
        if self.session is None:
            self._transport = None
            tcp.abort()
            return
        set_options(tcp.get_extra_info("socket"))
        tcp.set_write_buffer_limits(high=WRITE_BUFFER_HIGH)
        self.session.connected(time.monotonic())

    def data_received(self, data: bytes) -> None:
        """One burst from the SMG."""
        if self.session is None:
            return
        events = self.session.receive(data, time.monotonic())
        if failpoints.is_armed and events:
            failpoints.hit("session.received")
        self._door.act(self, events)

    def pause_writing(self) -> None:
        """It does not read our answers: read nothing more of it."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, by us or by the SMG."""
        if self._transport is not None:
            self._transport = None
            why = "closed by the carrier" if exc is None else mask_words(exc)
            self._door.left(self, f"link lost: {why}")
        if not self.ended.done():
            self.ended.set_result(None)


class Door:
    """All connections of SMGs to this process."""

    def __init__(self, sink: ChannelSink, policy: SessionPolicy) -> None:
        self._sink = sink
        self._policy = policy
        self._common = common_of(policy.process, policy.life)
        self._accounts: list[tuple[SgipSettings, Account]] = []
        self._guests: dict[SgipGuest, _Guest] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._answered: set[_Guest] = set()  # to be written at the end of this turn of the loop
        self._told: dict[str, float] = {}
        self._is_stopping = False

    def set_channels(self, channels: Iterable[config.Channel]) -> None:
        """Take the logins of these channels; whoever came by one that is gone is sent away, and
        whoever came from an address that is on its list no more is logged out."""
        self._accounts = []
        for channel in channels:
            if channel.protocol != PROTOCOL:
                continue
            try:
                own = parse(channel.settings)
            except ConfigError as error:
                log.warning("channel left out", channel=channel.name, error=str(error))
                continue
            if own.smg_allow:
                account = Account(channel.id, own.node_id, own.smg_login_name, own.smg_password)
                self._accounts.append((own, account))
        known = {account for _, account in self._accounts}
        for session, guest in list(self._guests.items()):
            allowed = self._accounts_of(guest.address)
            if session.account is None:
                if not allowed:
                    guest.close(UNLISTED)
            elif session.account not in known:
                guest.close("its channel was changed")
            elif session.account not in allowed and session.state is SessionState.BOUND:
                self._log_out(session, guest)

    def make_protocol(self) -> asyncio.Protocol:
        """What a connection that was just taken speaks to."""
        return _Guest(self)

    def connections(self) -> int:
        """How many SMGs are here, logged in or not."""
        return len(self._guests)

    def sessions(self) -> dict[int, int]:
        """How many of them are logged in, by channel; 0 for one that waits for its SMG."""
        found = {account.channel: 0 for _, account in self._accounts}
        for session in self._guests:
            if session.account is not None:
                found[session.channel] = found.get(session.channel, 0) + 1
        return found

    def answer(self, tokens: Sequence[object], *, accepted: bool) -> Sequence[object]:
        """Answer what came through this door; returns the tokens that are not its own."""
        others: list[object] = []
        by_guest: dict[SgipGuest, list[tuple[object, ...]]] = {}
        for token in tokens:
            if isinstance(token, tuple) and token and isinstance(token[0], SgipGuest):
                by_guest.setdefault(token[0], []).append(token)
            else:
                others.append(token)
        for session, own in by_guest.items():
            guest = self._guests.get(session)
            if guest is None:
                continue  # it is over: the SMG brings them again
            session.answer(own, accepted=accepted)
            if not self._answered:
                asyncio.get_running_loop().call_soon(self._write_answers)
            self._answered.add(guest)
        return others

    def _write_answers(self) -> None:
        for guest in self._answered:
            guest.flush()
        self._answered.clear()
        if failpoints.is_armed:
            failpoints.hit_soon("settle.answered")

    async def stop(self, timeout_s: float) -> None:
        """Log out of everybody and close; the listening socket is the caller's to close first."""
        self._is_stopping = True
        for session, guest in list(self._guests.items()):
            if session.account is None:
                guest.close("stopped")
        # What they brought is being committed: nobody knows when they would bring it again.
        until = time.monotonic() + min(timeout_s, LOGOUT_S)
        while self._owes() and time.monotonic() < until:  # noqa: ASYNC110 – once in a life
            await asyncio.sleep(LOOK_S)
        guests = list(self._guests.values())
        now = time.monotonic()
        for session, guest in list(self._guests.items()):
            session.unbind(now)
            guest.flush()
        if guests:
            endings = [guest.ended for guest in guests]
            await asyncio.wait(endings, timeout=min(timeout_s, LOGOUT_S))
        for guest in guests:
            guest.close("stopped")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _log_out(self, session: SgipGuest, guest: _Guest) -> None:
        """Ask it to go; one that does not answer is closed by its clock (`SgipGuest.tick`)."""
        reason = "its address is no longer on smg_allow"
        log.info("smg logged out", channel=session.channel, address=guest.address, reason=reason)
        session.unbind(time.monotonic())
        guest.flush()

    # -- called by guests ------------------------------------------------------------------

    def welcome(self, guest: _Guest) -> SgipGuest | None:
        """A session for it, or None when nobody expects a connection from its address."""
        address = guest.address
        why = self._why_not(address)
        if why:
            self._tell(address, why)
            return None
        session = SgipGuest(
            lambda: self._accounts_of(address),
            self._policy,
            common=self._common,
            unix_offset=time.time() - time.monotonic(),
        )
        self._guests[session] = guest
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        return session

    def _accounts_of(self, address: str) -> list[Account]:
        return [account for own, account in self._accounts if _is_listed(address, own)]

    def _why_not(self, address: str) -> str:
        """Why nobody may connect from this address now; "" when somebody may."""
        if self._is_stopping:
            return "this process stops"
        if not self._accounts_of(address):
            return UNLISTED
        strangers = sum(
            guest.address == address
            for session, guest in self._guests.items()
            if session.account is None
        )
        is_full = len(self._guests) >= GUESTS_MAXIMUM
        return "too many connections" if is_full or strangers >= STRANGERS_OF_ADDRESS else ""

    def _make_room(self, account: Account | None) -> None:
        """Close the quietest connection of an account that has one too many."""
        own = [session for session in self._guests if session.account == account]
        if len(own) > GUESTS_OF_ACCOUNT:
            now = time.monotonic()
            quietest = max(own, key=lambda session: (session.owed <= 0, session.quiet_s(now)))
            self._guests[quietest].close("too many connections of its login")

    def _owes(self) -> bool:
        return any(session.owed > 0 for session in self._guests)

    def act(self, guest: _Guest, events: list[Event]) -> None:
        """Carry one burst's events to the flow, as the channel that the login named."""
        channel = guest.session.channel if guest.session is not None else 0
        for event in events:
            match event:
                case Answered(results):
                    self._sink.outcomes(channel, results)
                    self._sink.window_open(channel)
                case Reported(reports):
                    self._sink.reports(channel, reports)
                case Received(texts):
                    self._sink.inbound(channel, texts)
                case Bound(peer):
                    log.info("smg logged in", channel=channel, name=peer, address=guest.address)
                    if guest.session is not None:
                        self._make_room(guest.session.account)
                case Ended(reason, error):
                    log_fault(error, f"{PROTOCOL} port")
                    guest.close(reason)
                case _:
                    assert_never(event)
        guest.flush()

    def left(self, guest: _Guest, reason: str) -> None:
        """Forget a connection; what it brought and we did not answer comes again."""
        session = guest.session
        if session is None:
            return
        self._guests.pop(session, None)
        self._answered.discard(guest)
        if session.account is None:
            self._tell(guest.address, reason)
        else:
            log.info("smg left", channel=session.channel, address=guest.address, reason=reason)
        session.lost("")

    # -- inside ----------------------------------------------------------------------------

    def _tick(self) -> None:
        """Once a second while somebody is here: logins and logouts that take too long."""
        self._timer = None
        now = time.monotonic()
        for session, guest in list(self._guests.items()):
            self.act(guest, session.tick(now))
        if self._guests:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tell(self, address: str, reason: str) -> None:
        """Log a connection that came to nothing: each reason when it is new, then once a minute."""
        now = time.monotonic()
        if now - self._told.get(reason, -REMIND_S) < REMIND_S:
            return
        if len(self._told) > GUESTS_MAXIMUM:
            self._told.clear()
        self._told[reason] = now
        log.warning("connection to the SGIP port refused", address=address, reason=reason)


def _is_listed(address: str, own: SgipSettings) -> bool:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in own.smg_allow)
