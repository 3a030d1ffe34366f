"""One run of the daemon: its parts, their threads, and what others are told of it."""
