"""The sparse engine."""
