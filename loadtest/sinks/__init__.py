"""Webhook receivers that misbehave, under kills, and a judge: `make sinks` (docs/webhooks.md).

    traffic ─▶ node with workers that are killed ─▶ receivers, each with a manner of its own
                    │                                   │ what arrived, how it was signed
                    └ store, GET /v1/events ────────────┴─▶ judge ─▶ table, JSON, HTML

`manners`, `judge` and `report` do no I/O. `receiver` needs nothing else of this package and stands
in the process of whoever opens it: other measurements use it too.
"""
