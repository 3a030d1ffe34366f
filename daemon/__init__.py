"""styletransferd: repaint dropped photos in the style of dropped paintings."""

__version__ = "0.1.0"
