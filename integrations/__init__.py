"""Adapters to training loops. They use the public API only: `sparsify` and `sparsify.checkpoint`."""
