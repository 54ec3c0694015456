"""Ground that cannot be memorised: models drawn from integers, labelled by training, and what the verdict says of them.

    python tests/benchmarks/foundry.py label START STOP [--jobs N] [--seconds S] --out FILE.jsonl
    python tests/benchmarks/foundry.py score [--loss] [--split chosen|reported] [--twins] [--jobs N]
    python tests/benchmarks/foundry.py fixes [--loss] [--split chosen|reported] [--jobs N]
    python tests/benchmarks/foundry.py show SEED

A seed stands for an architecture of one of the families of ``foundry_parts``, a task, and an initialization: the family's own
sound one, a published scheme, or one to three faults. ``label`` trains it against its sound twin, with Adam and with SGD at three
rates each, and writes a line for every seed as soon as it is known; seeds that FILE already holds are passed over. It needs
torch alone. Labels, by progress (the share of the sound twin's fall of the loss that a model reaches at its best rate):

    harmed     under half, with Adam and with SGD: the verdict must fail it
    harmless   over 85 % with Adam and at least half with SGD: it must not
    hurt       in between: free
    defect     a mistake whatever training shows (not written, not a number, exact twins, cut off, unused): it must be named,
               by an error or, where a layer is only frozen, by a warning
    sound      the sound initialization itself: it must not be failed
    unlearnable  the sound twin does not learn, or one draw of it much worse than another: left out

``score`` checks every labelled seed; ``fixes`` checks the harmed ones, pastes the offered fix and trains again. Thresholds are chosen on even seeds of the families that are not left out
(``--split chosen``) and reported on the rest.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch

from foundry_parts.drawing import draw, may_choose
from foundry_parts.labelling import label

LABELS = Path(__file__).parent / "foundry_labels.jsonl"


def prepare() -> None:
    """One thread, no denormals, no warnings: for every process that trains or judges."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore")


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of a file, without one that was cut off."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def spread(work: Callable[[Any], Any], items: list[Any], jobs: int) -> Iterator[Any]:
    """``work`` done to the items by ``jobs`` processes, as it is done."""
    if jobs == 1:
        prepare()
        yield from map(work, items)
        return
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    with context.Pool(jobs, prepare) as pool:
        yield from pool.imap_unordered(work, items)


def labelled(seed: int) -> dict[str, Any]:
    """The label of a seed, or what went wrong with it."""
    try:
        return label(seed)
    except Exception as error:
        return {"seed": seed, "label": "broken", "error": repr(error)[:200]}


def write_labels(seeds: Iterable[int], out: Path, jobs: int, seconds: float) -> None:
    """Label ``seeds`` that ``out`` does not hold yet, until the time is up."""
    known = {r["seed"] for r in read(out)}
    todo = [s for s in seeds if s not in known]
    began, shown = time.monotonic(), 0.0
    counts: Counter[str] = Counter()
    spent = 0.0
    print(f"{len(todo)} seeds to label, {len(known)} known, {jobs} jobs", flush=True)
    with out.open("a") as file:
        if out.stat().st_size and not out.read_text().endswith("\n"):
            file.write("\n")  # a line that was cut off
        for done, record in enumerate(spread(labelled, todo, jobs), 1):
            file.write(json.dumps(record, separators=(",", ":")) + "\n")
            file.flush()
            counts[record["label"]] += 1
            spent += record.get("seconds", 0.0)
            now = time.monotonic() - began
            if now - shown > 5 or done == len(todo):
                shown = now
                left = now / done * (len(todo) - done)
                print(
                    f"{done}/{len(todo)} in {now:.0f} s, {left:.0f} s left, {spent / done:.2f} core-s each, {dict(counts)}",
                    flush=True,
                )
            if now > seconds:
                print("time is up", flush=True)
                break
    ordered = sorted(read(out), key=lambda r: r["seed"])
    whole = out.with_suffix(".tmp")
    whole.write_text("".join(json.dumps(r, separators=(",", ":")) + "\n" for r in ordered))
    whole.replace(out)


def show(seed: int) -> None:
    """Print what a seed stands for."""
    drawn = draw(seed)
    print(f"seed {seed}: {drawn.family}{'' if drawn.chosen else ' (nothing is chosen on it)'}")
    print("  " + ", ".join(f"{k} {v}" for k, v in drawn.design.facts.items()))
    print(f"  task: {drawn.task.name}, batches of {drawn.task.batch}")
    print(f"  initialization: {drawn.origin} {', '.join(drawn.faults)}")
    print(f"  at: {', '.join(drawn.units) or 'everywhere' if drawn.faults else '-'}")
    for record in read(LABELS):
        if record["seed"] == seed:
            print(
                "  label: "
                + json.dumps(
                    {k: v for k, v in record.items() if k not in ("seed", "family", "origin", "faults", "units")}
                )
            )
    print(drawn.model())


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("label", help="train and label seeds")
    one.add_argument("start", type=int)
    one.add_argument("stop", type=int)
    one.add_argument("--out", type=Path, default=LABELS)
    one.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    two = commands.add_parser("score", help="check what is labelled")
    three = commands.add_parser("fixes", help="train the harmed ones with the offered fix")
    for command in (two, three):
        command.add_argument("--loss", action="store_true", help="give the check the task's loss")
        command.add_argument("--split", choices=("chosen", "reported"), help="one part only")
        command.add_argument("--labels", type=Path, default=LABELS)
        command.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth seed")
    two.add_argument("--twins", action="store_true", help="check the sound twins of all others, too")
    two.add_argument("--out", type=Path, help="write a line for every verdict here")
    for command in (one, two, three):
        command.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    commands.add_parser("show", help="print what a seed stands for").add_argument("seed", type=int)
    options = parser.parse_args()
    if options.command == "label":
        write_labels(range(options.start, options.stop), options.out, options.jobs, options.seconds)
    elif options.command == "show":
        show(options.seed)
    else:
        check(options)


def check(options: argparse.Namespace) -> None:
    """Do ``score`` or ``fixes``; these need the package, which labelling does not."""
    from foundry_parts.fixing import repaired, report_fixes
    from foundry_parts.scoring import judge, report

    records = [r for r in read(options.labels) if r["label"] not in ("unlearnable", "broken")][:: options.every]
    if options.split:
        records = [r for r in records if may_choose(r["seed"], r["family"]) == (options.split == "chosen")]
    if options.command == "fixes":
        report_fixes(
            list(spread(repaired, [(r, options.loss) for r in records if r["label"] == "harmed"], options.jobs))
        )
        return
    if options.twins:
        records += [{**r, "label": "twin", "faults": []} for r in records if r["origin"] != "sound"]
    report(list(spread(judge, [(r, options.loss) for r in records], options.jobs)), options.out)


if __name__ == "__main__":
    main()
