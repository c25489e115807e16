"""Recognizers for other runtimes, each checked against our network before it is put in place.

A module a format, which imports its runtime when it is called: `onnx`, `openvino` and `transformers`.
"""
