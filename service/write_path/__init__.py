"""The write path: changes to tickets, batched into transactions, and the sweeper of expired holds.

Imports ``database`` and the flat modules; knows nothing of HTTP and never imports ``web``.
"""
