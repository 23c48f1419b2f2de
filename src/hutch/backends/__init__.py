"""What runs sandboxes. ``base`` is the boundary; every other module here implements it."""
