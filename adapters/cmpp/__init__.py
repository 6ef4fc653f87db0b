"""CMPP 2.0 and 3.0: codec, settings, result classes, sans-IO session and its asyncio channel."""
