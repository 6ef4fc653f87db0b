"""How well channels do, and which one takes a message next. Pure: no I/O, no clock."""
