"""The command ``uniex gpu``: all that a machine with a GPU is asked, within nine minutes."""

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unified_extractor.benchmarks.gpu.parts import LEAST, PARTS, Outcome, Part, run_all
from unified_extractor.benchmarks.gpu.results import is_complete
from unified_extractor.benchmarks.report import markdown
from unified_extractor.profiling.meters import without_gpu

SECONDS = 530


def main(arguments: Sequence[str]) -> int:
    """Run the parts that are not complete, the most valuable first. Return the exit code: 1 if any failed or was cut short."""
    given, chosen = _given(arguments)
    if given.list:
        for part in chosen:
            done = is_complete(given.output / f"{part.name}.json", given.toy)
            print(f"{part.name:15} at most {part.seconds:3} s  {'(complete) ' if done else ''}{part.tells}")
        print(f"All of them within {given.seconds} s, into {given.output}/.")
        return 0
    outcomes: list[Outcome] = []
    for outcome in run_all(chosen, given.output, given.seconds, given.toy):
        print(f"{outcome.part}: {outcome.text}", flush=True)
        outcomes.append(outcome)
        _summarize(given.output)
    return int(any(outcome.failed for outcome in outcomes))


def _given(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[Part]]:
    parser = argparse.ArgumentParser(
        "uniex gpu",
        description="Check values, measure speed and rivals, read counters and run tests on a GPU, each part within a time limit. Every "
        "part writes its file as it goes, and a part that is complete for this GPU and these sources is skipped the next time.",
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="PART", help=f"parts to run: {', '.join(names)}"
    )
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), metavar="FOLDER", help="default: gpu-results")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for all parts together (default {SECONDS})")
    parser.add_argument(
        "--toy", action="store_true", help="tiny calls in Triton's interpreter, without a GPU: a test of this command"
    )
    given = parser.parse_args(arguments)
    if given.seconds < LEAST:
        parser.error(f"--seconds must be at least {LEAST}, got {given.seconds}")
    if not given.toy and not given.list and (reason := without_gpu()):
        parser.exit(
            2, f"uniex: error: {reason}. uniex gpu --list says what it would do, --toy tries it in Triton's interpreter\n"
        )
    return given, [part for part in PARTS if part.name in given.only]


def _summarize(folder: Path) -> None:
    """Write ``gpu.json`` and ``gpu.md`` from the parts that measure speed, in the form of ``uniex bench gpu``."""
    found = {name: _read(folder / f"{name}.json") for name in ("speed-bfloat16", "speed-float32", "rivals", "values")}
    first = next((result for result in found.values() if result.get("cases")), None)
    if first is None or first["toy"]:
        return
    cases = [case for name in ("speed-bfloat16", "speed-float32") for case in found[name].get("cases", [])]
    beside = {case["name"]: case["candidates"] for case in found["rivals"].get("cases", [])}
    for case in cases:
        case["candidates"] |= {
            label: row for label, row in beside.pop(case["name"], {}).items() if label not in case["candidates"]
        }
    cases += [case for case in found["rivals"].get("cases", []) if case["name"] in beside]
    machine = first["machine"] | {
        key: value for key, value in found["values"].get("machine", {}).items() if key == "additions_per_second"
    }
    result = {"date": datetime.date.today().isoformat(), "machine": machine, "batch": first["batch"], "repeats": first["repeats"]}
    result["cases"] = cases
    (folder / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "gpu.md").write_text(markdown(result))


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}
