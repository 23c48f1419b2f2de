"""Snapshots: a user's home and workspace while no container of theirs exists."""
