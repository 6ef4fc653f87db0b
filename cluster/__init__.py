"""Processes that tell one another: wake-ups over Valkey. What is promised stands in PostgreSQL."""
