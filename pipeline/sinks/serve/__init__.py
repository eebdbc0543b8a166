"""What all servers share: addresses, credentials, limits, and connections with a deadline."""
