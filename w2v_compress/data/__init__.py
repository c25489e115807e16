"""Corpora to manifests, audio files to 16 kHz mono, text to units. Imports neither torch nor fairseq."""
