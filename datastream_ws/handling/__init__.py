"""Pass received payloads to handlers; this package does not depend on any socket."""
