"""How long to wait before a carrier is asked again for a session.

    nobody answered (refused port, no route, no word) ─▶ 1, 2, 4, 5, 5 … s: used soon after it is up
    it answered our login with no                     ─▶ 1, 2, 4 … 60 s: accounts get locked
    a session that held was lost                      ─▶ 1 s

Pure; each wait is spread by a fifth, so that not all sessions come at once.
"""

from __future__ import annotations

from collections.abc import Callable

from adapters.session import SessionPolicy

JITTER = 0.2


class Backoff:
    """The waits of one session's place; mutable, one for its life."""

    def __init__(self, policy: SessionPolicy, dice: Callable[[], float]) -> None:
        """`dice` gives numbers in 0…1, for the jitter."""
        self._policy = policy
        self._dice = dice
        self._unreached = 0  # in a row
        self._refused = 0  # with no session that held in between

    def unreached(self) -> float:
        """Seconds to wait: nobody said a word."""
        self._unreached += 1
        return self._wait_s(self._unreached, self._policy.reconnect_link_max_s)

    def refused(self) -> float:
        """Seconds to wait: the carrier is there, and did not take the login or not for long."""
        self._unreached = 0
        self._refused += 1
        return self._wait_s(self._refused, self._policy.reconnect_max_s)

    def fell(self) -> float:
        """Seconds to wait: what held is gone."""
        self._refused = 0
        self._unreached = 1
        return self._wait_s(1, self._policy.reconnect_link_max_s)

    def held(self) -> None:
        """It stands; the next failure is the first one."""
        self._refused = self._unreached = 0

    def _wait_s(self, failures: int, most_s: float) -> float:
        policy = self._policy
        doubled = policy.reconnect_min_s * float(2 ** min(failures - 1, 16))
        spread = 1.0 + JITTER * (2.0 * self._dice() - 1.0)
        return min(policy.reconnect_max_s, most_s, doubled) * spread
