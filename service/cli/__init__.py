"""The command line: the parser, the help, what each command does, and the demo.

Imports ``serving``, ``database``, ``embedded`` and the flat modules; nothing but ``__main__``
imports it.
"""
