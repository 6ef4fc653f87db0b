"""SMGP 3.0, the protocol of China Telecom."""
