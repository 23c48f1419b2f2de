"""Encrypted credentials, one per user and provider. Write-only from outside."""
