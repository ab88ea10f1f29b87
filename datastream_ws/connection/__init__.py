"""One WebSocket, from open to ended; knows nothing of handlers."""
