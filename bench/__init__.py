"""Measured comparisons; every ratio's two sides are measured in one run, in turns."""
