"""The demo: a small vision transformer on real digits, dense and under a recipe, side by side."""
