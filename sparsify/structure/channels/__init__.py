"""Channels that must die together, found by following a forward of a small random twin of the model."""
