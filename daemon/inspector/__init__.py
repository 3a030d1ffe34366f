"""Pictures from strangers are decoded in a small process of its own, so that none ends the daemon."""
