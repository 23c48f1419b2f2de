"""Logins that live in their user's container, and are kept in the vault as their CLI renews them.

The one exception to "a container holds no secret" (docs/decisions/0013-logins.md).
"""
