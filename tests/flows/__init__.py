"""Flows: waiters and conversations."""
