"""Mutants: small wrong changes of the service, each with the tests that must notice it.

The list is data: a TOML file for each area. ``python -m tests.mutants`` makes each change in a
copy of the tree and runs the tests that it names.

mutmut and cosmic-ray change only Python, by general rules, and cannot be given a change of SQL or
the tests that must notice it; half of the rules of this service are SQL.
"""
