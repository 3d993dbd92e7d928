"""The error that ends a command."""


class CommandFailed(Exception):
    """A command cannot do what it should. The message is one line that says what to do."""
