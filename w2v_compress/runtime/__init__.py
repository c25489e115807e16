"""From a model file and audio to text, without fairseq."""
