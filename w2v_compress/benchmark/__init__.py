"""Benchmark of our runtime against other runtimes, each in its own process."""
