"""Endpoints that speak others' protocols, for clients that know no other: OpenAI's and Anthropic's.

Each is a translation: of the request into a run (``asking``), and of the run's events into that
protocol's chunks (``chat``, ``responses``, ``messages``; pure). In between is what ``/v1/runs``
does as well.
"""
