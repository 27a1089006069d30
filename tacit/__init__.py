"""Tacit: partners learn together and say nothing.

``tacit`` holds the two ends of the house. Its leaf modules (:mod:`tacit.errors`, :mod:`tacit.canonical`,
:mod:`tacit.durable`, :mod:`tacit.logs`, :mod:`tacit.supervisor`, :mod:`tacit.sockets`) import nothing but the
standard library and small third-party packages, so every package may use them. :mod:`tacit.cli` is the front door
and may import everything; nothing imports it.
"""

__version__ = "0.1.0"
