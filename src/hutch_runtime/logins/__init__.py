"""Logins: files that a CLI makes and renews itself, and how one comes about inside the sandbox."""
