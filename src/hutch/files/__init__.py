"""The files in a user's workspace, for those outside of it."""
