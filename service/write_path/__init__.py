"""The write path: changes to tickets, batched into transactions, and the sweeper of expired holds.

A change is one request (``changes``), and what SQL decides about it is its outcome (``outcomes``).
``path`` puts a change into a lane: the ``shared_lane``, or its event's own (``lanes``). The lane
takes a batch from its queue (``batches``), and carries it out in one ``transaction``.

This package imports ``database`` and the modules directly in ``service``. It never imports ``web``:
it does not depend on HTTP.
"""
