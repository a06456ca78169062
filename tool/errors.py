"""The one exception that stands for a mistake in the input."""


class InputError(Exception):
    """Something that the user gave cannot be used; the message names it and the mend.

    Step scripts print the message without a traceback and exit with status 2.
    """
