"""A run: one prompt, a state, and an append-only log of events that everything else reads."""
