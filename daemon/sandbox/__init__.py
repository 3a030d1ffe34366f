"""Pictures from strangers are decoded in a small process of their own, so that none ends the daemon."""

from typing import Final

READY: Final = b"ready"  # the child's first word: from here on it is a picture's fault if it ends
