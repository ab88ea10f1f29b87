"""
The faults that users have had, by id. ``@pytest.mark.fault("3")`` marks a test of a fault.

Numbers are faults of networks, TLS, handshakes, the protocol, handlers and resources. G are those
of the Go client that this package descends from. P are those of a similar Python client. T are
pitfalls of the library ``websockets``. ``docs/fault-tests.md`` is made from this and the marks.
"""

from __future__ import annotations

__all__ = ["BREAKS", "FAULTS", "NOT_APPLICABLE", "SECTIONS"]

SECTIONS = {
    "Network": [str(n) for n in range(1, 20)],
    "TLS and proxies": [str(n) for n in range(20, 31)],
    "Handshake": [str(n) for n in range(31, 45)],
    "Protocol": [str(n) for n in range(45, 61)],
    "Flapping, handlers, resources": [str(n) for n in range(61, 78)],
    "Bugs of the Go client": [f"G{n}" for n in range(1, 26)],
    "Bugs of a Python client": [f"P{n}" for n in range(1, 21)],
    "Traps in the library underneath": [f"T{n}" for n in range(1, 7)],
}

_NAMES = """
1 RST in the middle of the stream
2 FIN without a close frame
3 half-open: the server has disappeared
4 a firewall drops every packet
5 the next attempt gets no response
6 one byte at a time
7 part of a frame, then FIN
8 part of a frame, then silence
9 cut after every byte of a stream
10 connection refused
11 the name does not resolve
12 the resolver hangs
13 the IPv6 address doesn't respond, the IPv4 address does
14 a load balancer closes idle connections
15 a rolling restart of a proxy
16 a load balancer without its upstream
17 a spike of latency below pong_timeout
18 64 kbit/s
19 the address behind the name changes
20 a certificate from an unknown authority
21 an expired certificate
22 a certificate for another name
23 the server requires a client certificate
24 a server that supports TLS 1.1 only
25 the TLS handshake stalls
26 wss:// to an unencrypted port, ws:// to a TLS port
27 the proxy refuses: 407, 403
28 the proxy's upstream is down: 502, 503
29 the proxy is unavailable or doesn't respond
30 an unusable proxy URL, SOCKS without its package
31 401 and 403
32 404, 405, 410, 426
33 429 with Retry-After
34 503 with Retry-After
35 500, 502, 504, 408, 425
36 redirects
37 an invalid Sec-WebSocket-Accept
38 something that is not HTTP, or no upgrade
39 endless header lines, hundreds of headers
40 503 with a body of 5 MB
41 the response arrives a byte at a time
42 the server accepts and never responds
43 FIN or RST before the response
44 a subprotocol or extension that wasn't offered
45 text that is not UTF-8
46 a frame header that announces 2 MB, or 2^63 - 1
47 frames that break the protocol
48 5,000 fragments
49 a compression bomb
50 corrupt compression
51 a server that never ends the TCP connection
52 close 1000, 1001, or no code
53 close 1011
54 close 1012: restart
55 close 1013: try again later
56 close codes that mean "don't reconnect"
57 close 1009: the client's message was too big
58 close frames that aren't allowed
59 data after the close frame
60 messages and a close in one segment
61 the server accepts and then closes immediately, forever
62 on_ready fails every time
63 a drop every few seconds, for ten minutes
64 handlers slower than the stream
65 a handler that stalls longer than keepalive
66 a handler that raises
67 a handler that raises SystemExit or KeyboardInterrupt
68 a handler that never returns
69 close() in a handler
70 send() and request() in a handler
71 send() while the connection is down
72 many threads send at once
73 a blocking call on the event loop
74 thousands of connects and closes
75 a long run of random faults
76 start() and close() twice, or in a strange order
77 two processes with one API key
G1 1000 and 1001 ended the client forever
G2 a failing handler killed the only worker
G3 a failing ready handler: reconnects without delay
G4 a drop: a reconnect without delay, attempts reset on open
G5 two locks taken in two orders
G6 the reader of an old connection acted on the new one
G7 the old connection stayed open after a failed ping
G8 the client read its own error channel
G9 the reader waited until errors were read
G10 a full queue dropped messages with a log line only
G11 the second close() panicked
G12 close() in a handler hung
G13 close() dropped what was queued
G14 close() sent no close frame
G15 close() during a dial leaked the new connection
G16 the delay overflowed
G17 all clients reconnected within one second
G18 process-wide defaults were changed
G19 at most ten attempts, without an option to retry forever
G20 all refusals were treated alike
G21 only a pong counted as life
G22 a failed write left a broken connection "connected"
G23 payloads and URLs in the log
G24 no limit of a message's size
G25 "connected" before the ready handler had run
P1 a ready handler that awaits a reply hung
P2 a failing ready handler skipped the delay
P3 attempts reset on open: the maximum was never reached
P4 a hook that raised ended the client
P5 "not ready" was never reported after a drop
P6 errors of handlers were not logged, or lost their cause
P7 a message that was too big, again and again, without a report
P8 errors that can't be fixed by another attempt were retried
P9 a slow handler ended a healthy connection
P10 a dead server was noticed after four minutes
P11 keepalive ended silently
P12 cancellation was swallowed
P13 start() twice made two connections
P14 nothing showed that the loop was dead
P15 the delay overflowed after 1,024 attempts
P16 IPv6 URLs lost their brackets, queries were lost
P17 JSON other than an object, and binary frames, raised
P18 a send that timed out might still go out
P19 credentials never changed, 4001 was unknown
P20 not thread-safe, no support for forks
T1 `async for` over connect() reconnects without delay
T2 a slow handler stops reading, and keepalive ends the connection
T3 429 is fatal, Retry-After unknown
T4 redirects carry credentials to another origin
T5 later attempts use the target of a redirect
T6 old messages arrive while the connection is closing
"""

FAULTS: dict[str, str] = dict(line.split(" ", 1) for line in _NAMES.split("\n") if line)

NOT_APPLICABLE: dict[str, str] = {
    "P11": "keepalive is a timer of the connection, and not a task that could end alone",
}

# The one-line break of the code that was tried, and made the fault's test fail.
BREAKS: dict[str, str] = {
    "3": "`_judge` in `keepalive` has `if False:` instead of `if now >= since + patience:`, so it "
    "never raises",
    "4": "as 3",
    "7": "`FrameCutter` does not check `stop > end`, so it takes an incomplete frame",
    "12": "`DaemonExecutor.submit` has `if True:` instead of `if future is None:`, so each lookup "
    "gets its own thread",
    "13": "`connect_tcp` passes `None` instead of `ATTEMPT_DELAY`, so it tries the addresses one "
    "after the other",
    "16": "as 35",
    "20": "`judge` retries `SSLCertVerificationError`",
    "21": "as 20",
    "22": "as 20",
    "23": "`FATAL_TLS_ALERTS` is empty",
    "24": "as 23",
    "28": "a proxy's 502 is reported as 407",
    "31": "`judge` retries 401 without a limit if the credentials are a callable",
    "33": "`Backoff.delay` ignores `retry_after`",
    "34": "as 33",
    "35": "`_status_retried` knows only `RETRIED_STATUSES`",
    "36": "`same_origin` is always true",
    "37": "a broken handshake is reported without the status 101, so it is retried",
    "44": "as 37",
    "45": "`FrameCutter` decodes with `errors='replace'`",
    "46": "the library's parser gets `max_size=None`",
    "48": "`_data_frame` does not count fragments",
    "51": "`closing()` starts no deadline",
    "52": "`FATAL_CLOSE_CODES` contains 1000 and 1001",
    "54": "`PATIENT_CLOSE_CODES` is empty",
    "55": "as 54",
    "56": "`is_fatal_code` ignores `FATAL_CLOSE_CODES`",
    "57": "`closed_by_peer` has no text for 1009",
    "61": "`Attempts.plan` has `stable_for >= 0`, so every connection resets the attempts",
    "62": "`Attempts.plan` lacks `self._waits += 1`, so it counts no waits",
    "65": "`Keepalive.check` judges while reading is paused",
    "67": "the handler's `except BaseException` is `except Exception`",
    "G1": "as 52",
    "G3": "as 62",
    "G4": "as 61",
    "G16": "`Backoff` has `2.0 ** n` instead of `2.0 ** min(n, 64)`",
    "G21": "`bytes_received` records nothing",
    "G22": "`_check_writing` never fails",
    "G24": "as 46",
    "P3": "as 61",
    "P4": "the `except BaseException` around hooks catches one kind of exception only",
    "P9": "as 65",
    "P10": "as 3",
    "P15": "as G16",
    "T2": "as 65",
    "T3": "as 33",
    "T4": "as 36",
}
