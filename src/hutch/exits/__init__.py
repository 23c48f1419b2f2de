"""Exits: proxies with one address each, leased one per user; everything of theirs leaves there."""
