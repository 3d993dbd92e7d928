"""The write path: changes to tickets, batched into transactions, and the sweeper of expired holds.

A change passes through ``path``, ``lanes`` or ``shared_lane``, ``batches`` and ``transaction``, in
this order.

This package imports ``database`` and the flat modules. It never imports ``web``: it does not depend
on HTTP.
"""
