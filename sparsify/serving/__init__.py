"""A model behind HTTP: requests are put together into batches, with limits, health and metrics.

Needs FastAPI, uvicorn and prometheus-client (`sparsify-torch[serve]`).
"""
