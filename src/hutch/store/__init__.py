"""Rows and transactions: SQLite, the embedded default, or PostgreSQL."""
