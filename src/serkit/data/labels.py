"""Which classes an experiment has, in which order, and what becomes of a corpus's other labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from serkit.errors import InputError


@dataclass(frozen=True)
class LabelScheme:
    """An ordered set of classes; ``merge`` renames raw labels, ``drop`` names those whose utterances are left out.

    >>> scheme = LabelScheme("calm-is-neutral", ("neutral", "happy"), merge={"calm": "neutral"}, drop=("bored",))
    >>> [scheme.resolve(raw) for raw in ("calm", "happy", "bored")]
    ['neutral', 'happy', None]
    """

    name: str
    classes: tuple[str, ...]
    merge: dict[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise InputError(f"labels {self.name!r}: needs two or more different classes, got {list(self.classes)}")
        lost = sorted(set(self.merge.values()) - set(self.classes))
        if lost:
            raise InputError(f"labels {self.name!r}: merge leads to {lost}, which is not among the classes")
        twice = sorted((set(self.merge) | set(self.drop)) & set(self.classes) | set(self.merge) & set(self.drop))
        if twice:
            raise InputError(f"labels {self.name!r}: {twice} is said to be two of class, merged and dropped")

    def resolve(self, raw: str | None) -> str | None:
        """Return the class of a raw label, or None when its utterances are dropped; raise for an unknown label."""
        if raw is None or raw in self.drop:
            return None
        label = self.merge.get(raw, raw)
        if label not in self.classes:
            raise InputError(
                f"label {raw!r} is not in the scheme {self.name!r}: add it to classes, merge or drop "
                f"(classes: {', '.join(self.classes)})"
            )
        return label

    def unknown(self, raws: Iterable[str | None]) -> list[str]:
        """Return the labels, sorted, that the scheme neither keeps, merges nor drops."""
        known = {*self.classes, *self.merge, *self.drop, None}
        return sorted({raw for raw in raws if raw is not None} - known)
