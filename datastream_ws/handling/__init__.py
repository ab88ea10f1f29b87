"""From received payloads to handlers; knows no socket."""
