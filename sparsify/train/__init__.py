"""`sparsify train`: real models on real data, on the stock Trainer. Needs the extra `train`."""
