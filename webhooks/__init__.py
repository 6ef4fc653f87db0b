"""Webhooks out: signing, retry schedule, which addresses may be called, delivery."""
