"""The live line of `smsgw up`: totals and rates out of the node's metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from telemetry.metrics import Snapshot
from telemetry.series import Sample

# What the line is made of: the rest need not be merged once a second.
COUNTED = frozenset(
    {"accepted_total", "final_total", "refused_total", "queue_messages", "webhook_seconds"}
)
_BAD = frozenset({"failed", "rejected", "undelivered", "expired", "unknown"})


def _sum(samples: list[Sample]) -> float:
    return sum(numbers[0] for _, numbers in samples)


@dataclass(slots=True)
class Counts:
    """Remembers the last look, so that the next one knows the rates."""

    _at: float | None = None
    _before: dict[str, float] = field(default_factory=dict)

    def take(self, snapshot: Snapshot, now: float) -> dict[str, float]:
        """Totals since start and, per second since the last look, `…_per_second`."""
        finals: dict[str, float] = {}
        for labels, numbers in snapshot.get("final_total", []):
            finals[labels[0]] = finals.get(labels[0], 0.0) + numbers[0]
        webhooks = sum(sum(numbers[:-1]) for labels, numbers in snapshot.get("webhook_seconds", []))
        totals = {
            "accepted": _sum(snapshot.get("accepted_total", [])),
            "delivered": finals.get("delivered", 0.0),
            "not_delivered": sum(finals.get(status, 0.0) for status in _BAD),
            "refused": _sum(snapshot.get("refused_total", [])),
            "webhooks": webhooks,
        }
        elapsed = now - self._at if self._at is not None else 0.0
        fields = dict(totals)
        for name in ("accepted", "delivered"):
            gone = totals[name] - self._before.get(name, 0.0)
            fields[f"{name}_per_second"] = round(max(gone, 0.0) / elapsed, 1) if elapsed else 0.0
        fields["queued"] = _sum(snapshot.get("queue_messages", []))
        self._at, self._before = now, totals
        return fields

    def line(self, fields: Mapping[str, float], missing: Sequence[str] = ()) -> str:
        """The same for a person; a second line says why the node is not ready."""
        text = (
            f"accepted {fields['accepted']:,.0f} ({fields['accepted_per_second']:,.0f}/s) · "
            f"delivered {fields['delivered']:,.0f} ({fields['delivered_per_second']:,.0f}/s) · "
            f"not delivered {fields['not_delivered']:,.0f} · queued {fields['queued']:,.0f} · "
            f"refused {fields['refused']:,.0f} · webhook requests {fields['webhooks']:,.0f}"
        )
        return f"{text}\nnot ready: {', '.join(missing)}" if missing else text
