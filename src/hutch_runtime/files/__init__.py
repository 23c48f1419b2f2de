"""The user's files, for those outside: read, written, packed; with the agents' rights alone."""
