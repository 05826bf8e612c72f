"""How fast and how large models are, measured beside each other in one run. Needs the extra `transformers`."""
