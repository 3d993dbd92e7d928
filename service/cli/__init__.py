"""The command line: the parser and its help, the commands, and the demo.

Imports ``serving``, ``database``, ``embedded`` and the flat modules, which are those directly in
``service``; only ``__main__`` imports it.
"""
