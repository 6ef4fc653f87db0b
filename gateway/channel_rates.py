"""The rate of each channel: one bucket of the account, shared with all processes.

An operator may change the rate while messages flow: the sessions stay.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.channel import OTP_SHARE, ChannelRuntime
from gateway.dispatch import MIN_DEPTH_SEGMENTS
from ratelimit.leases import ChannelBucket
from sms import config

if TYPE_CHECKING:
    from gateway.wiring import Worker

# The longest message must fit beside what is kept for otp.
_DEPTH: Final = math.ceil(MIN_DEPTH_SEGMENTS * OTP_SHARE / (OTP_SHARE - 1))


def bucket_name(channel: int) -> str:
    """Of the channel in Valkey."""
    return f"c{channel}"


def bucket_of(worker: Worker, snapshot: config.Snapshot, channel_id: int) -> ChannelBucket:
    """The channel's bucket, shared with all processes: its rate is the account's."""
    name, channel = bucket_name(channel_id), snapshot.channels[channel_id]
    rate = channel.segments_per_second
    depth = max(math.ceil(rate), _DEPTH)
    lease = worker.leases.lease(name, rate, depth, reserve=depth // OTP_SHARE, is_eager=True)
    worker.leases.share(name, worker.peers.sessions.rate_share(channel))
    worker.leases.listen(name, partial(worker.flow.dispatcher.pump, channel_id))
    return ChannelBucket(worker.leases, lease)


def share_rates(worker: Worker) -> None:
    """Other nodes have got or lost a channel: our part of its rate while Valkey is away."""
    channels = worker.flow.snapshot.channels
    for channel_id, runtime in worker.flow.dispatcher.channels.items():
        if channel_id in channels:
            share = worker.peers.sessions.rate_share(channels[channel_id])
            worker.leases.share(bucket_name(channel_id), share)
            runtime.throttle.share = share


def set_rate(worker: Worker, snapshot: config.Snapshot, runtime: ChannelRuntime) -> None:
    """A running channel goes by the rate that it has now."""
    rate = snapshot.channels[runtime.config.id].segments_per_second
    if runtime.throttle.limit != rate:
        runtime.throttle.limit = rate
        bucket_of(worker, snapshot, runtime.config.id)
