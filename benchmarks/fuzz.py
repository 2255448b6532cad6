"""Feeds damaged files to what reads bytes from outside, until the time is up.

    python -m benchmarks.fuzz images --seconds 600 --seed 1 --record
    python -m benchmarks.fuzz params --seconds 240 --seed 1 --record

Mutations are drawn from a seed; an input that gets an answer of a new kind is mutated further, so that the search is
led by outcomes. Decoders run as validate runs them, in processes of their own with limits. A crash, a hang, an
exception or a disagreement is a finding: its input goes to tests/corpus/<target>/, which tests/reliability replays.

Reads   tests/corpus/<target>/
Writes  findings there; with --record benchmarks/reliability.json; with --keep inputs of new kinds, too
Exit    0; 1 where there was a finding
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from benchmarks import fuzz_mutations, fuzz_targets, reliability
from stages.store.isolation import Lost, map_isolated

CORPUS = Path(__file__).parent.parent / "tests/corpus"
JUDGES: dict[str, Callable[[list[bytes]], list[str]]] = {
    "images": fuzz_targets.judge_images, "params": fuzz_targets.judge_params,
}  # fmt: skip
CPU_SECONDS, MEMORY = 20.0, 2**31  # of one input: the defaults of validate.decode_seconds and decode_megabytes
# A larger input of a new kind is mutated and not kept, nor one that comes when the folder is full.
KEPT_BYTES = {"images": 4096, "params": 768}
FOLDER_BYTES = {"images": 170_000, "params": 60_000}


def kind(answer: str) -> str:
    """What an answer has in common with others: no numbers, names or values."""
    return re.sub(r"'[^'\n]*'|\"[^\"\n]*\"|b'.*'|\d+", "#", answer)[:400]


def corpus(target: str) -> list[bytes]:
    """The kept inputs, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


class Searched(NamedTuple):
    """What a search did."""

    executed: int
    limited: int  # inputs whose decoding a limit ended, as it would in validate
    findings: dict[str, bytes]  # by what was wrong
    fresh: dict[str, bytes]  # inputs that got an answer of a new kind, by that kind


def search(target: str, seconds: float, seed: int) -> Searched:
    """Mutate and judge until the time is up."""
    rng = random.Random(seed)
    known = corpus(target)
    asked: list[bytes] = []
    end = time.monotonic() + seconds

    def inputs() -> Iterator[bytes]:
        for data in list(known):
            asked.append(data)
            yield data
        while time.monotonic() < end:
            asked.append(fuzz_mutations.mutated(target, rng, known))
            yield asked[-1]

    kinds: Counter[str] = Counter()
    found: dict[str, bytes] = {}
    fresh: dict[str, bytes] = {}
    executed, limited, begun = 0, 0, len(known)
    answers = map_isolated(JUDGES[target], inputs(), workers=1, cpu_seconds=CPU_SECONDS, memory_bytes=MEMORY)
    with closing(answers):
        for answer in answers:
            data = asked[executed]
            asked[executed] = b""
            executed += 1
            said = f"{fuzz_targets.DEFECT}{answer.reason}: {answer.detail}" if isinstance(answer, Lost) else answer
            kinds[kind(said)] += 1
            if said.startswith(fuzz_targets.DEFECT):
                # A limit's end is an answer that validate gives, too; a crash costs no run but is worth to know.
                if target == "images" and isinstance(answer, Lost) and answer.reason != "decoder_crash":
                    limited += 1
                else:
                    found.setdefault(kind(said), data)
            elif kinds[kind(said)] == 1 and executed > begun:
                fresh[kind(said)] = data
                known.append(data)
            if executed % 20_000 == 0:
                left = end - time.monotonic()
                sys.stderr.write(f"{executed:,} executions, {len(kinds)} kinds, {len(found)} findings, {left:.0f} s\n")
    for said, count in kinds.most_common(12):
        sys.stderr.write(f"{count:8,}  {said[:100]}\n")
    return Searched(executed, limited, found, fresh)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=list(JUDGES))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="add the run to benchmarks/reliability.json")
    parser.add_argument("--keep", action="store_true", help="put inputs of new kinds into the corpus")
    asked = parser.parse_args()
    done = search(asked.target, asked.seconds, asked.seed)
    seconds = sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    for data in done.findings.values():
        _keep(asked.target, "finding", data)
    room = FOLDER_BYTES[asked.target] - sum(map(len, corpus(asked.target)))
    for data in sorted(done.fresh.values(), key=len) if asked.keep else ():
        if len(data) <= min(KEPT_BYTES[asked.target], room):
            _keep(asked.target, "kind", data)
            room -= len(data)
    if asked.record:
        _record(asked.target, done, seconds)
    counts = {"executed": done.executed, "limited": done.limited, "new kinds": len(done.fresh)}
    summary = {**counts, "seconds": round(seconds), "findings": list(done.findings)}
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    sys.exit(1 if done.findings else 0)


def _keep(target: str, prefix: str, data: bytes) -> None:
    (CORPUS / target / f"{prefix}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)


def _record(target: str, done: Searched, seconds: float) -> None:
    """Add to what earlier runs of the same target recorded."""
    name = f"fuzz_{target}"
    known = json.loads(reliability.RESULTS.read_text()) if reliability.RESULTS.exists() else {}
    before = known.get(name, {"tried": 0, "survived": 0, "seconds": 0})
    note = {
        "images": "damaged pictures; survived: no crash, no exception, validator and trainer of one mind",
        "params": "damaged params files; survived: legal parameters of every stage, or one bounded error",
    }[target]
    note += "; seconds are the processor's"
    survived = before["survived"] + done.executed - len(done.findings)
    tried, spent = before["tried"] + done.executed, before["seconds"] + seconds
    reliability.record({name: reliability.entry(tried, survived, spent, note)})


if __name__ == "__main__":
    main()
