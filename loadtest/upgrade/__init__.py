"""Two versions of the gateway over one database, under load: what a client sees of an upgrade.

    tenant ─▶ front (L4 balancer: nodes that are ready) ─┬▶ old node ─┬▶ PostgreSQL, Valkey
                                                         └▶ new node ─┴▶ simulated carriers, sink

`old` gets the old version out of the project's own history, `place` starts what both share and the
nodes, `front` is the balancer, `locks` watches what a migration holds, `story` is the order of
things and the judgement. docs/upgrade.md.
"""
