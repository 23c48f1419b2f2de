"""Terminals: a user's own programs in their sandbox, under a PTY or behind two pipes."""
