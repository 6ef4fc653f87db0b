"""SGIP 1.2, the protocol of China Unicom: two directions over two kinds of connections."""
