"""Repositories from outside, into the workspace."""
