"""Token buckets in segments per second: the arithmetic, and a tenant's limits."""
