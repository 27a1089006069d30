"""The consortium's certificates: who is who, who may connect, and who signed.

One CA per consortium issues two certificates to each peer: a *TLS leaf* (ECDSA P-256), which opens
connections, and an *identity leaf* (Ed25519), which signs protocol messages, agreements and ledgers. Neither
can stand in for the other. Names are URIs: ``tacit://<consortium>/<role>/<name>``.

:mod:`certs.names`, :mod:`certs.authority` (issue), :mod:`certs.identity` (sign, verify) and
:mod:`certs.credentials` (TLS for gRPC) are the public surface. Imports only the leaf modules of :mod:`tacit`;
only ``credentials`` knows gRPC.
"""
