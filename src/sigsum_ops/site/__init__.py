"""Inventory reading and validation, hardware diversity."""
