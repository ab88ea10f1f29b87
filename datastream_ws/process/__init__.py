"""What a process has once: the loop's thread, the handler threads, fork, exit and signals."""
