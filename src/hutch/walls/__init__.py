"""Attacks on the walls of a sandbox, tried from inside one, and judged from outside."""
