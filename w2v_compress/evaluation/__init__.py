"""Error rates with their uncertainty, time and memory."""
