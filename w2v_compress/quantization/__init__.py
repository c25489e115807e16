"""int8 recognizers: smaller files, and integer matrix products."""
