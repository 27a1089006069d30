"""Coverage-guided fuzzing of every decoder with atheris (libFuzzer): ``make fuzz``.

Each decoder runs in its own process, from its valid inputs and from what earlier nights left in ``out/fuzz/corpus``. An
input that breaks a promise is kept in ``out/fuzz/crashes``, and the command that tries it again is printed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
#: What is instrumented, so that new paths through it count as progress.
_INSTRUMENTED = (
    "tacit", "certs", "privacy", "client.app", "client.data", "client.fab", "client.fleet_api", "server.checkpoint",
    "server.run_spec", "yaml", "tomllib", "zipfile", "csv", "json", "base64", "rfc8785",
)  # fmt: skip
_NOT_INSTRUMENTED = ("privacy.accounting", "privacy.dpsgd", "privacy.report", "tacit.cli")
#: Inputs of at most 8 KiB; memory and time as a net below the decoders' own limit of processor time.
_LIBFUZZER = ("-max_len=8192", "-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1", "-reload=0")
_RUNS = re.compile(r"^#(\d+)\s.*?exec/s: (\d+)", re.MULTILINE)
_DONE = re.compile(r"stat::number_of_executed_units: (\d+)")


def main() -> int:
    """Fuzz the decoders named on the command line, or all; return 1 when one broke its promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="decoders; all when none is named")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many inputs over all decoders named")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "fuzz")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer's mutations")
    parser.add_argument("--try", dest="trial", type=Path, help="hold the one decoder named to one input, and say what")
    parser.add_argument("--worker", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        return _fuzz(given.worker[0], given.worker[1:])
    if given.trial is not None:
        return _try(given.names[0], given.trial.read_bytes())
    return _night(given.names, given.inputs, given.out, given.seed)


def _night(names: list[str], inputs: int, out: Path, seed: int) -> int:
    from decoders import DECODERS

    unknown = set(names) - set(DECODERS)
    if unknown:
        sys.exit(f"error: no decoder {', '.join(sorted(unknown))}\nhint: there are {', '.join(DECODERS)}")
    chosen = names or list(DECODERS)
    share = -(-inputs // len(chosen))
    done, broken = 0, 0
    for number, name in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {name}: ", end="", flush=True)
        corpus, seeds = out / "corpus" / name, out / "valid" / name
        crashes, logs = out / "crashes", out / "logs"
        for folder in (corpus, seeds, crashes, logs):
            folder.mkdir(parents=True, exist_ok=True)
        for index, data in enumerate(DECODERS[name].seeds):
            (seeds / f"{index:02d}").write_bytes(data)
        options = [f"-runs={share}", f"-seed={seed}", f"-artifact_prefix={crashes}/{name}-"]
        if DECODERS[name].tokens:
            dictionary = out / "valid" / f"{name}.dict"
            dictionary.write_text("".join(f'"{_escaped(token)}"\n' for token in DECODERS[name].tokens))
            options.append(f"-dict={dictionary}")
        before = set(crashes.iterdir())
        began = time.monotonic()
        log = logs / f"{name}.log"
        runs, status = _run_worker(name, log, [str(corpus), str(seeds), *_LIBFUZZER, *options])
        done += runs
        rate = runs / max(time.monotonic() - began, 1e-9)
        print(f"{runs} inputs, {rate:.0f}/s, {len(list(corpus.iterdir()))} in the corpus", flush=True)
        for path in sorted(set(crashes.iterdir()) - before):
            broken += 1
            print(f"  BROKEN: {path}\n  again: {sys.executable} tests/fuzz/nightly.py {name} --try {path}", flush=True)
        if status and not set(crashes.iterdir()) - before:
            broken += 1
            print(f"  FAILED with status {status}: see {log}", flush=True)
    print(f"{done} inputs over {len(chosen)} decoders, {broken} broken promises", flush=True)
    return 1 if broken else 0


def _run_worker(name: str, log: Path, arguments: list[str]) -> tuple[int, int]:
    """Run libFuzzer in a process of its own and show its pulse; return inputs run and its exit status."""
    command = [sys.executable, __file__, "--worker", name, *arguments]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT)
        shown = ""
        while process.poll() is None:
            time.sleep(0.2)
            pulses = _RUNS.findall(log.read_text(errors="replace")[-4000:])
            pulse = f"{pulses[-1][0]} inputs..." if pulses else ""
            if pulse != shown and sys.stdout.isatty():
                print(f"\r{name}: {pulse}\033[K\r{name}: ", end="", flush=True)
            shown = pulse
    text = log.read_text(errors="replace")
    final, pulses = _DONE.findall(text), _RUNS.findall(text)
    return int(final[-1] if final else pulses[-1][0] if pulses else 0), process.returncode


def _fuzz(name: str, arguments: list[str]) -> int:
    try:
        import atheris
    except ImportError:
        sys.exit("error: atheris is not installed\nhint: pip install --constraint constraints.txt '.[fuzz]'")
    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=list(_INSTRUMENTED), exclude=list(_NOT_INSTRUMENTED)):
        from decoders import DECODERS, check
    decoder = DECODERS[name]

    def one_input(data: bytes) -> None:
        check(decoder, data)

    atheris.Setup([sys.argv[0], *arguments], one_input)
    atheris.Fuzz()
    return 0


def _try(name: str, data: bytes) -> int:
    sys.path.insert(0, str(ROOT))
    from decoders import DECODERS, check

    print(f"{name}: {'accepted' if check(DECODERS[name], data) else 'refused'}, as promised: {data[:100]!r}")
    return 0


def _escaped(token: bytes) -> str:
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
