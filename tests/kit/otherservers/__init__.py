"""
Servers that others wrote, each behind the same few words. A text message goes back as it came,
unless it is one of these orders:

    {"do": "close", "code": 4000, "reason": "bye"}
    {"do": "drop"}                          end TCP at once, without a close frame
    {"do": "fragments", "of": ["a", "b"]}   one message in as many frames, a ping amid them
    {"do": "send", "size": 100000}          a message of so many characters

When a connection ends the server prints `closed CODE`; when it listens, `listening PORT`.
It ends when its standard input does.
"""
