"""What the project exists for: agreement, accounting, ledger, DP-SGD, secure aggregation, report.

Knows no Flower, no transformer, no server. Imports only :mod:`certs` and the leaf modules of :mod:`tacit`.
"""
