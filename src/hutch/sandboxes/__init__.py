"""A sandbox per user: what should be, what is, and the step that makes them meet."""
