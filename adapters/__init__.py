"""Carrier protocols, one folder each; nothing here knows another room."""
