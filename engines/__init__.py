"""The network: from weights to a compiled engine that takes bytes and gives scores."""
