"""
Resources that exist once per process.

They are the loop's thread, the handler threads, the exit handler and the signal handlers.
"""
