"""A user's own terminals in their container."""
