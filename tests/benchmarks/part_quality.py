"""The quality of the pictures and the time they took: three errors of every contestant on every pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import picture_files
import sheet
import sidecars
from processes import interleaved
from tables import Table, median

if TYPE_CHECKING:
    from pathlib import Path

    from bench import Bench, Pair

PRESETS: Final = ("paper", "default", "fine")
PEER: Final = "pastiche"
PHOTO: Final = "photo"
EQUAL: Final = "equal"
LONGER: Final = 10  # times the seconds of preset default
TRIES: Final = 6
CLOSE: Final = 0.02  # relative distance of two content errors that count as equal


@dataclass
class Contest:
    """All paintings of one pair."""

    bench: Bench
    pair: Pair
    number: int
    default_s: list[float] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """The path of a contestant's picture."""
        return self.bench.work / "quality" / f"{self.number}-{name}.png"

    def preset(self, name: str) -> dict[str, Any]:
        """Paint by a preset."""
        keys: dict[str, Any] = {"preset": name, "size": self._size(name)}
        answer = self.paint({key: value for key, value in keys.items() if value}, name)
        if name == "default":
            self.default_s.append(answer["seconds"])
        return answer

    def _size(self, name: str) -> int | None:
        """Preset fine has its own size, which only --quick makes smaller."""
        size: int = self.bench.options.size
        return size if name != "fine" else 2 * size if self.bench.options.quick else None

    def paint(self, keys: dict[str, Any], name: str) -> dict[str, Any]:
        """Paint with some settings."""
        output = self.path(name)
        output.parent.mkdir(parents=True, exist_ok=True)
        request = {"kind": "paint", "settings": keys, "output": str(output), **self.pair.files}
        answer = self.bench.ask(request, f"quality-{self.number}-{name}")
        return {**answer, "seconds": answer["marks"][-1][-1]}

    def peer(self) -> dict[str, Any]:
        """Have pastiche paint by its defaults, for the seconds of preset default and for ten times as long."""
        seconds = self.default_s[-1]
        names = (f"{PEER}-1", f"{PEER}-{LONGER}")
        stops = [
            (seconds * times, str(self.path(name))) for times, name in zip((1, LONGER), names, strict=True)
        ]
        request = {"kind": "by_defaults", "size": self.bench.options.size, "stops": stops, **self.pair.files}
        return self.bench.ask_peer(request, f"quality-{self.number}-{PEER}")

    def errors(self, pictures: list[tuple[str, int | None]]) -> list[list[float]]:
        """Compute the three errors of pictures by name, each scaled to a size or (None) at its own."""
        named = [(str(self.path(name)), size) for name, size in pictures]
        request = {"kind": "picture_errors", "pictures": named, **self.pair.files}
        found: list[list[float]] = self.bench.ask(request, f"quality-{self.number}-errors")["errors"]
        return found


def run(bench: Bench) -> list[Table]:
    """Paint every pair and compute the errors; with --sheet also write the pictures side by side."""
    tables, rows = [], []
    for number, pair in enumerate(bench.pairs):
        contest = Contest(bench, pair, number)
        runs: dict[str, Any] = {name: lambda n=name, c=contest: c.preset(n) for name in PRESETS}
        if bench.peer:
            runs[PEER] = contest.peer
        table = _table(contest, interleaved(runs, bench.options.repeats))
        tables.append(table)
        rows.append(_shown(contest, table))
    if bench.options.sheet:
        sheet.write(bench.options.sheet.absolute(), rows)
    return tables


def _table(contest: Contest, answers: dict[str, list[dict[str, Any]]]) -> Table:
    size: int = contest.bench.options.size
    table = Table(
        f"Errors of {contest.pair.name}, at {size} px",
        ("picture", "style, optimized", "style, other", "content", "seconds", "iterations"),
        notes=[
            "style: |G - Gs|² / |Gs|², the mean over block*_conv1, and over block1_conv2, 2_2, 3_3 and 4_3",
            "content: |F - Fc|² / |Fc|² at block4_conv2. All in float32 on 8-bit pixels; 0 is equal",
            "medians of seconds with the model loaded and traced, targets included; of pastiche only its loop",
        ],
        raw=dict(answers),
    )
    picture_files.write(contest.path(PHOTO), picture_files.read(contest.pair.content))
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
            (name, median([answer["seconds"][index] for answer in found]), found[-1]["iterations"][index])
        )
    if contest.bench.options.equal_content and PEER in answers:
        _find_equal(contest, pictures, figures, table)
    for (name, seconds, iterations), errors in zip(figures, contest.errors(pictures), strict=True):
        table.rows.append((name, *errors, seconds, iterations))
    if pictures[-1][0] == EQUAL:
        peers = next(row for row in table.rows if row[0].startswith(PEER))
        table.notes.append(
            f"at equal content error: {table.rows[-1][1] / peers[1]:.2f} of pastiche's style error"
        )
    return table


def _of_product(found: list[dict[str, Any]]) -> tuple[float | None, int]:
    return median([answer["seconds"] for answer in found]), found[0]["marks"][-1][0]


def _find_equal(contest: Contest, pictures: list[Any], figures: list[Any], table: Table) -> None:
    """Bisect for the strength at which preset default has pastiche's content error."""
    if not sidecars.is_known({"strength": 0.5}):
        table.notes.append("no comparison at equal content error: this version has no strength")
        return
    size = contest.bench.options.size
    ((_, _, wanted),) = contest.errors([(f"{PEER}-1", size)])
    low, high = 0.0, 1.0
    for _ in range(TRIES):
        strength = (low + high) / 2
        answer = contest.paint({"preset": "default", "size": size, "strength": strength}, EQUAL)
        ((_, _, found),) = contest.errors([(EQUAL, size)])
        low, high = (strength, high) if found < wanted else (low, strength)
        if abs(found / wanted - 1) < CLOSE:
            break
    pictures.append((EQUAL, size))
    figures.append((f"default at strength {strength:.3f}", *_of_product([answer])))


def _shown(contest: Contest, table: Table) -> list[tuple[Path, str]]:
    """Make a row of the sheet: each picture and its caption."""
    row = [(contest.pair.content, "content"), (contest.pair.style, "style")]
    # In the order of the table's rows: the photo is in the row already, and fine has two.
    pictures = [None, *PRESETS, None, f"{PEER}-1", f"{PEER}-{LONGER}"]
    for picture, (_, *errors, seconds, _) in zip(pictures, table.rows, strict=False):
        if picture:
            name = picture.replace(f"-{LONGER}", f" x {LONGER}").replace("-1", "")
            row.append((contest.path(picture), caption(name, errors, seconds)))
    return row


def caption(name: str, errors: list[float], seconds: float) -> str:
    """Write a picture's name, seconds and errors in one line."""
    style, other, content = errors
    return f"{name}  {seconds:.1f} s  style {style:.3f} / {other:.3f}  content {content:.2f}"
