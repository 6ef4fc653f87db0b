"""The choice of the channel that takes a message next. Pure: no I/O, no clock."""
