"""Picture files and arrays: only this package imports Pillow."""

from PIL import AvifImagePlugin, Image

# `decoding` checks the size in the header before decoding; Pillow's own limit only warns up to twice its value.
Image.MAX_IMAGE_PIXELS = None
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each one reserves address space, of which the sandbox has little
