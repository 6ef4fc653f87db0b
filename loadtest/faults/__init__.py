"""The table of faults as a command: what must hold when a carrier or its link goes bad.

    senders, a class each ──▶ stock gateway ──▶ proxy ──▶ primary        `stage`, `senders`
                                            ├─▶ proxy ──▶ backup 1 … 3
                                            └─▶ webhook sink
    what was accepted, the carriers' records, the sink's ──▶ Trace ──▶ rows that pass or fail

One row is one story on a gateway of its own: `rows` says what is done to the primary and which
numbers are judged.
"""
