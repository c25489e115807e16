"""Learning from a teacher: losses, layer selection, the teacher and its cache."""
