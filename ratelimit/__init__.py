"""Limits in segments: buckets shared between processes, a tenant's limits and quotas."""
