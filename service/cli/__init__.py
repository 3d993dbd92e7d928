"""The command line: the parser, the help, what each command does, and the demo.

May import every other package and flat module; none of them imports it.
"""
