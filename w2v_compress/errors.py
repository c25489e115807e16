"""The one exception for wrong input: what the command line prints as a single line, with exit status 1."""


class InputError(ValueError):
    """A file, field or argument is wrong. The message names it, says what is wrong and what is allowed."""
