"""Our runtime timed against others, each in a process of its own."""
