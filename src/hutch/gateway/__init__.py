"""The only way out of a sandbox: knows who is asking by address, and adds the credential."""
