"""What the gateway knows: which address is whose sandbox, and what to put in for them.

Pushed whole or entry by entry by the orchestrator over a Unix socket, kept in memory only.
"""
