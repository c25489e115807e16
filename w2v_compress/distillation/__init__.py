"""Distillation from a teacher: losses, layer selection, the frozen teacher and its cache of logits."""
