"""What lives and dies as a whole in a model: heads, neurons, and layers."""
