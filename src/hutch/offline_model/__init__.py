"""A stand-in for the three model APIs, for demos and tests. It is not a model and says so.

It speaks Anthropic Messages, OpenAI Responses and Gemini generateContent well enough that the real
Claude Code, Codex and Gemini CLIs hold conversations and call tools against it. ``make up`` talks
to it when there is no key. Every answer names it, and every response has the header
``x-hutch-offline-model: 1``. What it does on demand is in ``hutch.offline_model.behaviour``.
"""
