"""The exception tree: everything Tacit raises on purpose, in one place.

Every error says what was received, what was expected and, as ``hint``, what to do next. The command line prints
``error:`` and ``hint:`` and exits with :attr:`TacitError.exit_code`.

::

    TacitError
    ├── InputError                 something a person wrote or named is wrong            exit 2
    │   ├── ConfigError            run.toml, site.toml, coordinator.toml, policy.yaml
    │   ├── DataError              a CSV or JSONL file, a column, a label
    │   └── ModelError             a model folder, a layer, a task
    ├── CertificateError           expired, foreign or unreadable                          exit 3
    ├── AgreementError             unsigned, edited, expired, or not valid                 exit 4
    ├── Refusal                    the site's gate said no; carries a RefusalReason        exit 5
    ├── LedgerError                                                                        exit 6
    │   ├── LedgerCorrupt          the log does not verify
    │   ├── BudgetExceeded         the reservation does not fit what is left
    │   ├── StepAlreadySpent       this (run, round, step) was reserved before
    │   └── StorageFull            the disk refused the write
    ├── SecAggError                                                                        exit 7
    │   ├── ProtocolViolation      a peer sent what the protocol forbids
    │   │   ├── MalformedMessage   bytes that do not decode
    │   │   ├── BadSignature       a signature or certificate that does not verify
    │   │   ├── DescriptorMismatch the coordinator announced another step than the order
    │   │   ├── CohortTooSmall     fewer sites than threshold or min_cohort
    │   │   ├── ConflictingLock    a second lock, or locks that disagree
    │   │   ├── RepeatedStep       a step this site took before, or an older one
    │   │   └── BadShare           a share or seed that does not match its commitment
    │   ├── IllegalEvent           an event this state does not accept (state unchanged)
    │   ├── EncodingRange          values that cannot be encoded without wrapping
    │   └── StepBurnt              the step ended without a sum
    ├── TransportError             a peer that is not there, a port in use                 exit 8
    ├── ProcessError               a supervised process failed                             exit 9
    └── TrainingError              the DP-SGD engine refused a model, loss or plan         exit 10
"""

from __future__ import annotations

from enum import StrEnum


class TacitError(Exception):
    """Base of everything Tacit raises on purpose.

    Args:
        message: what was received and what was expected, one sentence or two.
        hint: what the reader should do next; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(TacitError):
    """Something a person wrote or named is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file cannot be used."""


class DataError(InputError):
    """A data file, column or label cannot be used."""


class ModelError(InputError):
    """A model folder, layer or task cannot be used."""


class CertificateError(TacitError):
    """A certificate or key is expired, foreign or unreadable."""

    exit_code = 3


class AgreementError(TacitError):
    """An agreement is unsigned, edited, expired, or not valid."""

    exit_code = 4


class RefusalReason(StrEnum):
    """Why a site's gate refused an order. The value travels to the coordinator's log."""

    ORDER_MALFORMED = "order-malformed"
    AGREEMENT_MISMATCH = "agreement-mismatch"
    AGREEMENT_EXPIRED = "agreement-expired"
    AGREEMENT_NOT_APPROVED = "agreement-not-approved"
    WITHDRAWN = "withdrawn"
    POLICY = "policy"
    COHORT = "cohort"
    THRESHOLD = "threshold"
    MODEL_MISMATCH = "model-mismatch"
    ADAPTER_NOT_ALLOWED = "adapter-not-allowed"
    STRATEGY_NOT_ALLOWED = "strategy-not-allowed"
    TASK_MISMATCH = "task-mismatch"
    PRIVACY_PARAMETERS = "privacy-parameters"
    NOISE_SEED = "noise-seed"
    BUDGET = "budget"
    REPEATED_STEP = "repeated-step"
    LEDGER = "ledger"
    DATA = "data"
    STATE_MISMATCH = "state-mismatch"
    BUSY = "busy"


class Refusal(TacitError):
    """The site's gate refused an order.

    Args:
        reason: the typed reason that reaches the coordinator's log.
        message: what was asked and what is allowed. Never contains anything about the data.
    """

    exit_code = 5

    def __init__(self, reason: RefusalReason, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class LedgerError(TacitError):
    """The ledger cannot be used."""

    exit_code = 6


class LedgerCorrupt(LedgerError):
    """The log does not verify: an entry, a hash or a signature is wrong."""


class BudgetExceeded(LedgerError):
    """A reservation does not fit into what is left of a budget."""


class StepAlreadySpent(LedgerError):
    """This (run, round, step) was reserved before; a second noise draw is never made."""


class StorageFull(LedgerError):
    """The disk refused the write; nothing was recorded and nothing was spent."""


class SecAggError(TacitError):
    """Secure aggregation cannot go on."""

    exit_code = 7


class ProtocolViolation(SecAggError):
    """A peer sent something the protocol forbids.

    Args:
        peer: the name of the peer at fault, when one can be named.
    """

    def __init__(self, message: str, *, peer: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.peer = peer


class MalformedMessage(ProtocolViolation):
    """Bytes that do not decode to a message of this protocol version."""


class BadSignature(ProtocolViolation):
    """A signature that does not verify against the roster."""


class DescriptorMismatch(ProtocolViolation):
    """The announced step is not the step this site was ordered to take."""


class CohortTooSmall(ProtocolViolation):
    """Fewer survivors than the threshold or the agreed minimum cohort."""


class ConflictingLock(ProtocolViolation):
    """A second, different lock for one step, or lock signatures that disagree."""


class RepeatedStep(ProtocolViolation):
    """A step that this site has taken part in before, or an older one: no step is taken twice."""


class BadShare(ProtocolViolation):
    """A share or seed that does not match its commitment."""


class IllegalEvent(SecAggError):
    """An event the current state does not accept. The state is unchanged."""


class EncodingRange(SecAggError):
    """Values that cannot be encoded in the ring without wrapping."""


class StepBurnt(SecAggError):
    """The step ended without a sum. Its noise was drawn, so it is charged."""


class TransportError(TacitError):
    """A peer that is not there, a port in use, a connection that broke."""

    exit_code = 8


class ProcessError(TacitError):
    """A supervised process failed."""

    exit_code = 9


class TrainingError(TacitError):
    """The DP-SGD engine refused a model, a loss or a plan."""

    exit_code = 10
