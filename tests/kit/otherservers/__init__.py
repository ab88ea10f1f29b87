"""
Servers of other projects, which all accept the same orders.

A server echoes each text message, unless it is one of these orders::

    {"do": "close", "code": 4000, "reason": "bye"}
    {"do": "drop"}                          end TCP immediately, without a close frame
    {"do": "fragments", "of": ["a", "b"]}   one message in as many frames, after a ping
    {"do": "send", "size": 100000}          a message with this number of characters

The server prints `listening PORT` when it listens, and `closed CODE` when a connection ends. It
exits when its stdin is closed.
"""
