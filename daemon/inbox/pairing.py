"""Which files belong together: pure functions from the names in one folder to groups."""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from daemon.job import Part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from daemon.job import Role
    from daemon.sidecar import Sidecar

_Key = TypeVar("_Key")
_SIDECAR_SUFFIXES = {".yaml", ".yml"}


@dataclass(frozen=True)
class Group:
    """One sidecar with its pictures, or a pair of pictures without one."""

    stem: str
    parts: tuple[Part, ...]  # known by role, name and weight only
    sidecar: Sidecar | None
    missing: tuple[str, ...] = ()

    @property
    def trigger(self) -> str:
        """The file that stands for the whole: the sidecar, or else the content."""
        return self.parts[0].name

    @property
    def local_names(self) -> frozenset[str]:
        """The files of the folder that the group needs, present or not."""
        return frozenset(part.name for part in self.parts if not part.library) | set(self.missing)


def is_sidecar(name: str) -> bool:
    """Whether a name is that of a sidecar."""
    return PurePath(name).suffix.casefold() in _SIDECAR_SUFFIXES


def folded(name: str) -> str:
    """Fold what copying between systems changes in a name: case, and composed or decomposed accents."""
    return unicodedata.normalize("NFC", name).casefold()


class Names(frozenset[str]):
    """The file names of one folder, with the tables to find them by: built once for all its sidecars."""

    @functools.cached_property
    def by_fold(self) -> dict[str, list[str]]:
        """Folded names to the names that fold to them."""
        return _grouped((folded(name), name) for name in self)

    @functools.cached_property
    def by_convention(self) -> dict[tuple[str, str], list[str]]:
        """(role, folded stem) to the files called STEM.role.suffix."""
        return _grouped(
            ((rest.casefold(), folded(stem)), name)
            for name in self
            for stem, _, rest in [PurePath(name).stem.rpartition(".")]
            if stem and PurePath(name).suffix and not is_sidecar(name)
        )


def _grouped(pairs: Iterable[tuple[_Key, str]]) -> dict[_Key, list[str]]:
    result: dict[_Key, list[str]] = {}
    for key, name in pairs:
        result.setdefault(key, []).append(name)
    return result


def find(name: str, names: Names) -> str | None:
    """Find a file by the name a person wrote: exactly, else the only one that folds to the same."""
    if name in names:
        return name
    alike = names.by_fold.get(folded(name), [])
    return alike[0] if len(alike) == 1 else None


def pair_sidecar(name: str, sidecar: Sidecar, names: Names, library: Names) -> Group:
    """Gather the files that one sidecar asks for; a faulty one does not wait for those that are missing.

    `names` are all files in its folder, and `library` all files in folders.styles.
    """
    stem = PurePath(name).stem
    parts, missing = [Part("sidecar", name)], []

    def want(role: Role, wanted: str, weight: float = 1.0, scale: float = 1.0) -> None:
        local = find(wanted, names)
        found = local or (find(wanted, library) if role in {"style", "region_style"} else None)
        if found is None:
            missing.append(wanted)
        else:
            parts.append(Part(role, found, weight=weight, scale=scale, library=local is None))

    want("content", sidecar.content or _conventional(stem, "content", names))
    for style in sidecar.styles:
        want("style", style.image, style.weight, style.scale)
    if not sidecar.styles:
        want("style", _conventional(stem, "style", names))
    if sidecar.init:
        want("init", sidecar.init)
    if sidecar.mask:
        want("protect", sidecar.mask)
    for role, named in sidecar.region_files:
        want(role, named)
    return Group(stem, tuple(parts), sidecar, () if sidecar.faults else tuple(missing))


def _conventional(stem: str, role: str, names: Names) -> str:
    """Name the one file `STEM.role.*`; without one, or with several, the pattern itself, which no file has."""
    found = names.by_convention.get((role, folded(stem)), [])
    if len(found) > 1:
        return f"only one of {', '.join(sorted(found))}"
    return found[0] if found else f"{stem}.{role}.*"


def pair_bare(names: Collection[str], claimed: Collection[str], strange: Collection[str]) -> list[Group]:
    """Find pairs `NAME.content.*` and `NAME.style.*` without a sidecar among the regular files of a folder.

    Its sidecars need the `claimed` names. The `strange` names are of everything that is no regular file: a
    sidecar that is a link still claims its pair.
    """
    free = Names(name for name in names if name not in claimed)
    with_sidecar = {folded(PurePath(name).stem) for name in (*names, *strange) if is_sidecar(name)}
    groups = []
    for (role, stem), contents in free.by_convention.items():
        styles = free.by_convention.get(("style", stem), [])
        if role == "content" and stem not in with_sidecar and len(contents) == len(styles) == 1:
            name = PurePath(contents[0]).stem.rpartition(".")[0]
            groups.append(Group(name, (Part("content", contents[0]), Part("style", styles[0])), None))
    return groups
