"""Contestants on pairs of pictures, by measures that nobody optimizes, and a sheet to look at before them.

A contestant is SETTINGS[@CHECKOUT], strotss[:TIMES] or nnst[:TIMES]. SETTINGS is a preset, or a file with keys
of a sidecar; CHECKOUT the root of another version's clone. An anchor runs in full, or in so many times the
seconds of the first contestant, with which all others are compared.
"""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import lite0
import sheet
from processes import HERE
from tables import Table, median, ratio

from daemon import safe_yaml

if TYPE_CHECKING:
    from bench import Bench, Pair

DEFAULT: Final = ("default", "strotss:1", "nnst:1")

Scores = dict[str, dict[str, Any]]  # contestant -> measure -> value


def run(bench: Bench) -> list[Table]:
    """Paint every pair by every contestant, and measure."""
    names = bench.options.contestant or list(DEFAULT)
    weights = str(lite0.install(bench.work / "lite0"))
    found: dict[str, Scores] = {}
    for number, pair in enumerate(bench.pairs):
        seconds: list[float] = []
        for name in names:
            seconds.append(_paint(bench, pair, name, seconds, _path(bench, number, name)))
        request = {"kind": "beauty", "weights": weights, "size": bench.options.size, **pair.files}
        request["pictures"] = [str(_path(bench, number, name)) for name in names]
        scores = bench.ask(request, f"beauty-{number}-scores")["scores"]
        found[pair.name] = {
            name: {**score, "seconds": taken} for name, score, taken in zip(names, scores, seconds, strict=True)
        }
    if bench.options.sheet:
        _write_sheet(bench, names)
    return [table(list(found.values()), f"Beauty at {bench.options.size} px, of {len(found)} pairs", found)]


def _path(bench: Bench, number: int, name: str) -> Path:
    plain = "".join(letter if letter.isalnum() else "-" for letter in name)
    return bench.work / "beauty" / f"{number}-{plain}.png"


def _paint(bench: Bench, pair: Pair, name: str, earlier: list[float], output: Path) -> float:
    output.parent.mkdir(parents=True, exist_ok=True)
    request = {"kind": "paint", "output": str(output), **pair.files}
    anchor, _, times = name.partition(":")
    if anchor in {"strotss", "nnst"}:
        seconds = float(times) * earlier[0] if times else None
        request |= {"kind": "anchor", "anchor": anchor, "size": bench.options.size, "seconds": seconds}
        taken: float = bench.ask(request, f"beauty-{output.stem}")["seconds"]
        return taken
    chosen, _, checkout = name.partition("@")
    keys = safe_yaml.parse(Path(chosen).read_bytes()) if Path(chosen).is_file() else {"preset": chosen}
    request["settings"] = {"size": bench.options.size, **keys}
    program = (Path(checkout).absolute() / "tests" / "benchmarks" if checkout else HERE) / "contestant.py"
    variables = {"PYTHONPATH": str(program.parents[2])}
    answer = bench.ask(request, f"beauty-{output.stem}", program=str(program), variables=variables)
    last: float = answer["marks"][-1][-1]
    return last


def table(pairs: list[Scores], title: str, raw: dict[str, Any]) -> Table:
    """Make the table of medians over pairs, of ratios to the first contestant."""
    base, *others = pairs[0]
    found = Table(title, ("measure", base, *(f"{name} / {base}" for name in others)), raw=raw)
    found.notes.append(
        f"medians; lower is nearer, but for faces, multiples and seconds; first column: {base} itself"
    )
    for measure in pairs[0][base]:
        values = {name: [pair[name][measure] for pair in pairs] for name in pairs[0]}
        if measure == "faces":
            found.rows.append(
                (measure, *("{} of {}".format(*map(sum, zip(*v, strict=True))) for v in values.values()))
            )
            continue
        ratios = [median(list(map(ratio, values[name], values[base]))) for name in others]
        found.rows.append((measure, median(values[base]), *ratios))
    return found


def _write_sheet(bench: Bench, names: list[str]) -> None:
    """Shuffle each pair's pictures under letters; the key is in a file beside the sheet."""
    path, rows, key = bench.options.sheet.absolute(), [], {}
    for number, pair in enumerate(bench.pairs):
        shuffled = random.SystemRandom().sample(names, len(names))
        key[pair.name] = dict(zip(string.ascii_uppercase, shuffled, strict=False))
        pictures = [(_path(bench, number, name), letter) for letter, name in key[pair.name].items()]
        rows.append([(pair.content, "photo"), (pair.style, "painting"), *pictures])
    sheet.write(path, rows)
    path.with_suffix(".key.json").write_text(json.dumps(key, indent=1))
