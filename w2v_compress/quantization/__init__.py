"""int8 quantization of networks: smaller model files, and integer matrix products."""
