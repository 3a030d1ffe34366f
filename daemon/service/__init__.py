"""One run of the daemon: its parts, their threads, and its status for others."""
