"""The hand-written loop: read `loop.py`, copy it, change it."""
