"""What leaves PyTorch: ONNX. Needs the extra `export`."""
