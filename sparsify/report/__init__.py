"""Honest numbers about a finished model: sizes on disk, latency beside the dense model, pictures."""
