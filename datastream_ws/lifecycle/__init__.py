"""The lifecycle of a client, from ``start()`` until it is CLOSED or FAILED."""
