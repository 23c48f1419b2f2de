"""Other protocols before the API, on standard input and output: ACP for editors, MCP for agents."""
