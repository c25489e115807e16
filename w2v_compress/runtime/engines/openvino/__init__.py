"""The OpenVINO engine for CPUs. Does not import torch."""
