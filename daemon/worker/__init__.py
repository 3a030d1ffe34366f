"""From a claimed job to its outcome."""
