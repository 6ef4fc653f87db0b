"""Faults under traffic, and a judge: `make campaign` (docs/campaign.md).

    traffic ── POST ──▶ node ──▶ simulated carriers, sink: their own records
    faults ─ kill, cut, fill, wipe ─┘   └ database, read from outside
                        all of it ──▶ judge ──▶ table, JSON, HTML

`course` runs it: rounds of some faults under steady traffic, then a rest in which everything must
come to its end, then the judgement. `judge`, `timeline` and `report` do no I/O.
"""
