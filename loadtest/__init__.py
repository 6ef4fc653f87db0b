"""Traffic, and simulated carriers and endpoints that answer; nothing imports it."""
