"""Base model, LoRA adapter and task heads; adapter <-> flat vector.

Imports only :mod:`privacy` (orders), :mod:`certs` and the leaf modules of :mod:`tacit`.
"""
