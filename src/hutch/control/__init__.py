"""The loop: tasks that re-read the state and make it what it should be."""
