"""Simulated vendors: HTTP providers as they answer, push and fail, one shape each."""
