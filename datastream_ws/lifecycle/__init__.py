"""One start of a client, from CONNECTING to CLOSED."""
