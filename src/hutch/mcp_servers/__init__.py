"""The MCP servers that a user gives their agents."""
