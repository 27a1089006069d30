"""A site's step journal: an append-only file of what it sent in which step, synced before the frame goes out.

One canonical JSON object a line. A line that a crash cut short speaks of a frame that was never sent, and is dropped;
any other damage is refused, since a site that forgot a step could be made to take it twice.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pydantic import ValidationError

from privacy.order import Strict
from privacy.secagg.journal import Sent, StepRecord, last_steps
from tacit.canonical import canonical_json
from tacit.durable import sync_directory, write_atomic
from tacit.errors import LedgerCorrupt, LedgerError, StorageFull

#: A journal that has grown beyond this is cut down, when it is opened, to the last record of each run.
_COMPACT_BYTES = 1 << 20


class _Line(Strict):
    run_id: str
    epoch: int
    step: int
    sent: str
    digest: str


class FileStepJournal:
    """The journal in one file. Not thread-safe: a site carries out one order at a time.

    Args:
        path: of the file; made when it is not there, with mode 0600.

    Raises:
        LedgerCorrupt: a line is damaged.
        LedgerError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        records, whole_bytes = _read(path)
        self._last = last_steps(records)
        if whole_bytes > _COMPACT_BYTES:
            latest = {record.run_id: record for record in records}
            data = b"".join(map(_line, latest.values()))
            write_atomic(path, data, mode=0o600)
            whole_bytes = len(data)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.ftruncate(self._handle, whole_bytes)
            os.lseek(self._handle, 0, os.SEEK_END)
            sync_directory(path.parent)
        except OSError as error:
            raise LedgerError(f"the step journal {path} cannot be opened: {error.strerror}") from error

    def keep(self, record: StepRecord) -> None:
        """Append the record and sync it.

        Raises:
            StorageFull: the disk has no room; nothing may be sent.
            LedgerError: the disk refused the write for another reason.
        """
        data = _line(record)
        end = os.lseek(self._handle, 0, os.SEEK_CUR)
        try:
            if os.write(self._handle, data) != len(data):
                raise OSError(errno.ENOSPC, "the line was written in part")
            os.fdatasync(self._handle)
        except OSError as error:
            os.ftruncate(self._handle, end)
            os.lseek(self._handle, end, os.SEEK_SET)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    f"no room left on the disk for {self._path}", hint="free some space; the step is burnt"
                ) from error
            raise LedgerError(f"the step journal {self._path} cannot be written: {error.strerror}") from error
        self._last[record.run_id] = max(self._last.get(record.run_id, 0), record.step)

    def last_step(self, run_id: str) -> int:
        """Return the last step of a run that this site sent anything in; 0 when there is none."""
        return self._last.get(run_id, 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def _line(record: StepRecord) -> bytes:
    fields = {
        "run_id": record.run_id,
        "epoch": record.epoch,
        "step": record.step,
        "sent": str(record.sent),
        "digest": record.digest,
    }
    return canonical_json(fields) + b"\n"


def _read(path: Path) -> tuple[list[StepRecord], int]:
    """Return the records, and how many bytes of the file they take: a last line without its end is not one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise LedgerError(f"the step journal {path} cannot be read: {error.strerror}") from error
    *lines, cut = data.split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            fields = _Line.model_validate_json(line)
            records.append(StepRecord(fields.run_id, fields.epoch, fields.step, Sent(fields.sent), fields.digest))
        except (ValidationError, ValueError) as error:
            raise LedgerCorrupt(
                f"line {number} of the step journal {path} is damaged",
                hint="restore the file; a site that forgot a step could be made to take it twice",
            ) from error
    return records, len(data) - len(cut)
