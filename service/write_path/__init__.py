"""The write path: changes to tickets, batched into transactions, and the sweeper of expired holds.

A reservation passes through ``path``, ``lanes``, ``batches`` and ``transaction``, in this order.

Imports ``database`` and the flat modules; knows nothing of HTTP and never imports ``web``.
"""
