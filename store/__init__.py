"""All SQL and everything durable: lanes, read-back, configuration, sealing, embedded servers."""
