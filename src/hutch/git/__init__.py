"""Repositories of git hosts, and the tokens that a user has there."""
