"""What a user's tier allows. Numbers are the operator's, by setting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    runs_at_once: int
    queued: int  # runs that wait
    weight: int  # in the line for a container: how many turns for one of a user with weight 1
