"""Which image new sandboxes are made of, and how another one takes its place."""
