"""fairseq tasks. Importing a module of this package registers its task."""
