"""The flow of a message: a reader follows it here, every other room is a mechanism."""
