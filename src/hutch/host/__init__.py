"""The machine: what it must have, what it lacks, and how it gets it."""
