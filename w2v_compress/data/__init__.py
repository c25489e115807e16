"""Convert corpora to manifests, audio to 16 kHz mono, and text to units. Imports no fairseq."""
