"""Foreign formats: fairseq checkpoints, transformers folders, ONNX and OpenVINO files."""
