"""Rows and transactions. SQLite (WAL, one writer) is the embedded default."""
