"""Trained models as programs that need no snnrun: a PyTorch module in one file, an ONNX graph."""
