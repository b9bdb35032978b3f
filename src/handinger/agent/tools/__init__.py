"""The agent's tools, one module per kind; names and parameters are part of the contract."""
