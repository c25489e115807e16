"""Transcribe audio with a model file; nothing here imports fairseq."""
