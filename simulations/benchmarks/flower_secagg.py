"""Flower's SecAgg+ at the same work, called as its client mod and its server workflow call it.

The client's four stages are the mod's own functions (``flwr.client.mod.secure_aggregation.secaggplus_mod``), the
opening of the sum is the workflow's own ``SecAggPlusWorkflow.unmask_stage``. Only the messages between them are
carried by hand here, by the rules of the workflow's other stages, which are named where that is done. Left out, in
Flower's favour: the mod's keeping of its state between messages, and all of its transport.

Comparable to ours: the complete graph (a share for every site), our threshold, equal weights, and Flower's default
quantisation, whose resolution ours is set to as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_mod
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.common.serde import recorddict_to_proto
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState
from flwr.supercore.task_identity import TaskIdentity

#: Flower's defaults (``SecAggPlusWorkflow.__init__``).
CLIPPING_RANGE, QUANTIZATION_RANGE, MODULUS_RANGE, MAX_WEIGHT = 8.0, 2**22, 2**32, 1000.0


@dataclass(frozen=True, slots=True)
class FlowerCost:
    """CPU seconds of one client and of the server's unmasking, and what the client uploads."""

    client_s: float
    quantize_s: float
    """Part of ``client_s``: floating point to integers."""
    unmask_s: float
    upload_bytes: int
    """The content of the client's message with its masked vector, serialised as Flower sends it."""


@dataclass(slots=True)
class FlowerClient:
    """One client between its messages."""

    state: SecAggPlusState
    inbox: list[tuple[int, bytes]] = field(default_factory=list)
    """Sealed shares for this client, by the node that sent them."""
    spent_s: float = 0.0
    """CPU seconds in the mod's functions so far."""


@dataclass(frozen=True, slots=True)
class Unmasked:
    """What the server has after its last stage."""

    finished: bool
    """False when the workflow gave the round up."""
    mean: npt.NDArray[np.float64] | None
    spent_s: float
    """CPU seconds of the server, without the clients' answers and the writing of the mean for a strategy."""
    refused: dict[int, Exception]
    """Clients that raised instead of answering."""


class FlowerRound:
    """One round of SecAgg+ whose clients have all set up and shared their keys.

    Args:
        sites: how many clients, as node ids 1, 2, ...
        threshold: shares that rebuild a secret.
        settings: replaces any of what the server sends in the setup stage; see :class:`Key`.
    """

    def __init__(self, sites: int, threshold: int, **settings: Any) -> None:
        self.threshold = threshold
        self.settings = settings
        self.workflow = SecAggPlusWorkflow(sites, threshold)
        self.clients = {node: FlowerClient(SecAggPlusState(nid=node)) for node in range(1, sites + 1)}
        self.sum_of_uploads: list[npt.NDArray[np.int64]] | None = None
        self.public_keys = {node: self.set_up(node) for node in self.clients}
        for node in self.clients:
            self.share_keys(node)

    # The client's stages.

    def set_up(self, node: int) -> list[bytes]:
        """``_setup`` with what ``SecAggPlusWorkflow.setup_stage`` sends; return both public keys."""
        configs = {
            Key.SAMPLE_NUMBER: len(self.clients),
            Key.SHARE_NUMBER: len(self.clients),
            Key.THRESHOLD: self.threshold,
            Key.CLIPPING_RANGE: CLIPPING_RANGE,
            Key.TARGET_RANGE: QUANTIZATION_RANGE,
            Key.MOD_RANGE: MODULUS_RANGE,
            Key.MAX_WEIGHT: MAX_WEIGHT,
        }
        keys = self._stage(node, _setup, ConfigRecord(configs | self.settings))
        return [keys[Key.PUBLIC_KEY_1], keys[Key.PUBLIC_KEY_2]]

    def share_keys(self, node: int) -> None:
        """``_share_keys`` with all public keys; hand the sealed shares on, as ``share_keys_stage`` does."""
        configs = ConfigRecord({str(other): keys for other, keys in self.public_keys.items()})
        shared = self._stage(node, _share_keys, configs)
        for to, box in zip(shared[Key.DESTINATION_LIST], shared[Key.CIPHERTEXT_LIST], strict=True):
            self.clients[to].inbox.append((node, box))

    def upload(self, node: int, values: npt.NDArray[np.float32]) -> list[bytes]:
        """``_collect_masked_vectors``: open the shares, quantise, mask, serialise; return the masked arrays."""
        trained = ndarrays_to_parameters([values])
        client = self.clients[node]
        configs = ConfigRecord(
            {
                Key.CIPHERTEXT_LIST: [box for _, box in client.inbox],
                Key.SOURCE_LIST: [source for source, _ in client.inbox],
            }
        )
        # a client trained on MAX_WEIGHT examples has weight one
        masked = self._stage(node, _collect_masked_vectors, configs, int(MAX_WEIGHT), trained)
        return masked[Key.MASKED_PARAMETERS]

    def reveal(self, node: int, configs: ConfigRecord) -> dict[str, Any]:
        """``_unmask``: whatever shares the server asks for."""
        return self._stage(node, _unmask, configs)

    def _stage(self, node: int, stage: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        client = self.clients[node]
        started = time.process_time()
        try:
            return stage(client.state, *arguments)
        finally:
            client.spent_s += time.process_time() - started

    # The server's stages.

    def take_upload(self, arrays: Iterable[bytes]) -> None:
        """Add one upload to the sum, as ``collect_masked_vectors_stage`` does."""
        vector = [bytes_to_ndarray(array) for array in arrays]
        total = vector if self.sum_of_uploads is None else parameters_addition(self.sum_of_uploads, vector)
        self.sum_of_uploads = parameters_mod(total, MODULUS_RANGE)

    def unmask(self, survivors: Sequence[int], never_shared: Iterable[int] = ()) -> Unmasked:
        """``SecAggPlusWorkflow.unmask_stage``: collect shares from ``survivors``, rebuild seeds, remove masks.

        Args:
            survivors: the clients whose uploads were taken.
            never_shared: clients that were sampled and left before they shared their keys.
        """
        everybody = set(self.clients) | set(never_shared)
        state = WorkflowState(
            sampled_node_ids=everybody,
            active_node_ids=set(survivors),
            num_shares=len(self.clients),
            threshold=self.threshold,
            clipping_range=CLIPPING_RANGE,
            quantization_range=QUANTIZATION_RANGE,
            mod_range=MODULUS_RANGE,
            max_weight=MAX_WEIGHT,
            nid_to_neighbours={node: set(everybody) for node in everybody},
            nid_to_publickeys=dict(self.public_keys),
            aggregate_ndarrays=self.sum_of_uploads or [],
            # the workflow writes the mean into the results of its strategy; one is enough to read it from
            legacy_results=[(None, SimpleNamespace(parameters=None))],
        )
        grid, strategy = _Grid(self.reveal), _Strategy()
        started = time.process_time()
        with as_a_server_process():
            finished = self.workflow.unmask_stage(grid, _context(strategy), state)
        spent = time.process_time() - started - grid.spent_s - strategy.spent_s
        return Unmasked(finished, strategy.mean, spent, grid.refused)


class _Grid:
    """Flower's grid as far as the unmask stage knows it: asks every client and waits for the answers."""

    def __init__(self, answer: Callable[[int, ConfigRecord], dict[str, Any]]) -> None:
        self._answer = answer
        self.spent_s = 0.0
        self.refused: dict[int, Exception] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        started = time.process_time()
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            try:
                answer = self._answer(node, message.content.config_records[RECORD_KEY_CONFIGS])
            except (KeyError, ValueError) as error:
                self.refused[node] = error
                continue
            content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(answer, False)})
            replies.append(Message(content, reply_to=message))
        self.spent_s += time.process_time() - started
        return replies


class _Strategy:
    """Keeps the mean that the workflow hands to its strategy."""

    mean: npt.NDArray[np.float64] | None = None
    #: CPU seconds here, and of ``ndarrays_to_parameters`` before, which is no part of unmasking
    spent_s = 0.0

    def aggregate_fit(self, _round: int, results: Any, _failures: Any) -> tuple[None, dict[str, Any]]:
        started = time.process_time()
        (_, result), *_ = results
        self.mean = parameters_to_ndarrays(result.parameters)[0]
        read = time.process_time()
        ndarrays_to_parameters([self.mean])
        # written once by the workflow, and once more here to learn what that cost
        self.spent_s += (read - started) + 2 * (time.process_time() - read)
        return None, {}


@contextmanager
def as_a_server_process() -> Iterator[None]:
    """Messages are addressed from whom Flower believes this process to be; what it logs is not wanted here."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before
        logger.setLevel(level)


def _context(strategy: _Strategy) -> LegacyContext:
    records = RecordDict({MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})})
    return LegacyContext(Context(1, 0, {}, records, {}), strategy=strategy)


def measure(values: npt.NDArray[np.float32], sites: int, dropped: int, threshold: int) -> FlowerCost:
    """Measure one client and the unmasking when ``dropped`` clients vanish between their shares and their upload.

    Only one client masks all of ``values``, float32 [d]. What the others upload changes nothing about its work or the
    server's, so they upload one coordinate, to receive their shares, and what is opened here is no sum. (The tests
    open a real one.)
    """
    flower = FlowerRound(sites, threshold)
    measured, *others = range(1, sites - dropped + 1)
    for node in others:
        flower.upload(node, values[:1])
    arrays = flower.upload(measured, values)
    upload_bytes = serialised_bytes(arrays)
    flower.take_upload(arrays)
    del arrays
    unmasked = flower.unmask([measured, *others])
    assert unmasked.finished
    started = time.process_time()
    quantize([values], CLIPPING_RANGE, QUANTIZATION_RANGE)
    quantize_s = time.process_time() - started
    return FlowerCost(flower.clients[measured].spent_s, quantize_s, unmasked.spent_s, upload_bytes)


def serialised_bytes(arrays: list[bytes]) -> int:
    """Return the size of a masked upload as it leaves the client: its message's content as protocol buffers."""
    content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({Key.MASKED_PARAMETERS: arrays}, False)})
    return len(recorddict_to_proto(content).SerializeToString())
