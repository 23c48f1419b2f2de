"""The user's MCP servers, in the configuration of each CLI."""
