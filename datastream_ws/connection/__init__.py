"""One WebSocket connection, from the opening handshake to its end; independent of handlers."""
