"""Carriers' reports normalised, and the state table of a message. Pure: no I/O, no clock."""
