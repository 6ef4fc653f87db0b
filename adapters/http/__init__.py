"""Vendors over HTTP: any provider as a channel, by configuration or by a preset with code."""
