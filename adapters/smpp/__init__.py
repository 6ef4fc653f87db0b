"""SMPP 3.4: codec, settings, status classes, sans-IO session and its asyncio shell."""
