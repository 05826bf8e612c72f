"""The families: one a file, each registered when it is imported."""
