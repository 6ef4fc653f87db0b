"""How many sockets this process may have, and for what.

    all ├ 256: carriers, PostgreSQL, files ├ webhooks: 1/4, at most 4096 ├ who calls us: the rest

A webhook's request is one socket, and when it is over its connection stays open for four seconds:
so of the webhooks' part half may be under way, and half open for later (`DeliveryPolicy.kept`).
"""

from __future__ import annotations

import resource
from typing import Final

KEPT: Final = 256  # for carriers, PostgreSQL and files
WEBHOOKS: Final = 2048  # requests under way at most
LEAST: Final = 64
_MOST: Final = 1_000_000  # where the kernel sets no limit


def forbid_cores() -> None:
    """Let this process and its children leave no core: it would hold texts, numbers and keys.

    One octet, not none: that alone also ends a core that is piped to a collector (core(5)).
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0 if most == 0 else 1, most))


def descriptors() -> int:
    """Descriptors this process may have; raises the soft limit to the hard one first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return min(soft, _MOST)


def webhook_limit(all_of_them: int) -> int:
    """Webhook requests that may be under way in a process with so many descriptors."""
    return max(LEAST, min(WEBHOOKS, all_of_them // 8))


def connection_limit(all_of_them: int) -> int:
    """Connections of callers that a process with so many descriptors may hold."""
    return max(LEAST, all_of_them - KEPT - 2 * webhook_limit(all_of_them))
