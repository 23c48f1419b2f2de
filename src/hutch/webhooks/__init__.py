"""Webhooks: users, and the operator, are told of what has happened by a signed HTTP request."""
