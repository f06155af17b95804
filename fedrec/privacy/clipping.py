"""Bounding what one user can add to a sum: over all tables of a query together, by table, or by a norm that adapts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.errors import ModelError, PrivacyError

TableClips = tuple[tuple[str, float], ...]
"""(table, norm) pairs, sorted by table."""


@dataclass(frozen=True)
class Part:
    """Tables of a release that share one clip and one noise.

    Attributes:
        tables: their names.
        clip: the largest norm of what one user adds to them, all together.
        noise_multiplier: deviation of the noise on each of their entries, over the clip.
    """

    tables: tuple[str, ...]
    clip: float
    noise_multiplier: float


LEAST_CLIP = 1e-100
"""Below norms of some 1e-150 squares vanish in double precision, so that a longer answer than such a clip would pass it
whole; and noise in proportion to it may be rounded away."""


@dataclass(frozen=True)
class Clip:
    """The largest Euclidean norm that one user's contribution to one query keeps.

    Clips belong to queries: one number cannot serve a count (norm √d_u) and a training step alike.

    Attributes:
        norm: C, over all tables together. With clips by table it is the root of the sum of their squares, which is
            what a user moves the sum by at most.
        tables: a clip for each table of the query, or none; `Clip.by_table` makes them.
    """

    norm: float
    tables: TableClips = ()

    def __post_init__(self) -> None:
        for place, value in (*((f"clip of table '{name}'", norm) for name, norm in self.tables), ("clip", self.norm)):
            if not (math.isfinite(value) and value > 0):
                raise PrivacyError(f"{place} = {value}: a clip is a norm; give a finite number above 0")
            if value < LEAST_CLIP:
                raise PrivacyError(
                    f"{place} = {value}: so small a norm cannot be told from 0; give {LEAST_CLIP} or more"
                )

    @classmethod
    def by_table(cls, norms: Mapping[str, float]) -> Clip:
        """A clip for each table of a query.

        Raises:
            PrivacyError: if there is none, or one is not a finite number above 0.
        """
        if not norms:
            raise PrivacyError("clips by table: none is given; name every table of the query")
        tables = tuple(sorted((name, float(norm)) for name, norm in norms.items()))
        return cls(math.hypot(*norms.values()), tables)

    def require_tables(self, names: Iterable[str]) -> None:
        """Raise a PrivacyError if there are clips by table and they are not those of the query's tables."""
        own, asked = sorted(name for name, _ in self.tables), sorted(names)
        if self.tables and own != asked:
            raise PrivacyError(f"clips for the tables {', '.join(own)} of a query of {', '.join(asked)}; name each")

    def parts(self, names: Iterable[str], noise_multiplier: float) -> tuple[Part, ...]:
        """How a release of noise multiplier σ is noised.

        One clip: one part, of noise σC on every entry of every table. Clips by table: a part a table, each of noise
        multiplier σ√m for m tables, so that Σ_t 1/(σ√m)² = 1/σ²: every table has noise in proportion to its own clip,
        spends an m-th of the release, and together they cost what one release at σ does (Dong, Roth & Su 2022,
        "Gaussian Differential Privacy", corollary 3.3).

        Raises:
            PrivacyError: if the clips are of other tables.
        """
        tables = tuple(names)
        self.require_tables(tables)
        if not self.tables:
            return (Part(tables, self.norm, noise_multiplier),)
        by_table = dict(self.tables)
        return tuple(Part((name,), by_table[name], noise_multiplier * math.sqrt(len(tables))) for name in tables)


def scales(squared_norms: Tensor, clip: Clip | float) -> Tensor:
    """What each user's contribution is multiplied with, so that its norm is at most the clip: min(1, C/‖c_u‖₂).

    A zero contribution is legal and keeps the factor 1. See Abadi et al. 2016, "Deep Learning with Differential
    Privacy", algorithm 1; here the norm is that of everything a user sends, not of one example's gradient.

    Args:
        squared_norms: [n] floating point, ‖c_u‖₂² of each user, summed over the tables of the query.
        clip: the bound C.

    Returns:
        [n] factors in (0, 1], of the same dtype. The sum of the scaled contributions moves by at most C (but for
        rounding) when one user is added or removed: its sensitivity.

    Raises:
        ModelError: if a norm is not finite. No factor makes such a contribution finite: refuse the answer.
    """
    norm = clip.norm if isinstance(clip, Clip) else clip
    norms = squared_norms.sqrt()
    if not torch.isfinite(norms).all():
        bad = int((~torch.isfinite(norms)).sum())
        raise ModelError(f"{bad} of {norms.numel()} contributions have no finite norm; refuse these answers")
    # C/0 = inf, and the clamp makes it 1. A scalar over a tensor would be a reciprocal and a product, rounded twice.
    return (torch.full_like(norms, norm) / norms).clamp(max=1.0)


def scales_by_table(squared_norms: Mapping[str, Tensor], clip: Clip) -> Mapping[str, Tensor]:
    """`scales` for each table of a query: the same factors for all of them under one clip, its own under each clip.

    Args:
        squared_norms: table -> [n] squared norm of what each user adds to it.
        clip: of the query.

    Raises:
        ModelError: if a norm is not finite.
        PrivacyError: if the clips are of other tables.
    """
    clip.require_tables(squared_norms)
    if clip.tables:
        return {name: scales(squared_norms[name], norm) for name, norm in clip.tables}
    together = scales(torch.stack(list(squared_norms.values())).sum(dim=0), clip)
    return dict.fromkeys(squared_norms, together)


class AdaptiveClipConfig(Config):
    """A clip that follows a quantile of the users' norms (Andrew et al. 2021, "Differentially Private Learning with
    Adaptive Clipping").

    A user's bit is b_u = 1[‖c_u‖ ≤ C], 1 for who is *not* clipped, and the next round clips to C·exp(−η(b̄ − γ)), b̄
    being the noised mean of the bits: with too many unclipped users C falls. The bit is shifted by ½, so that one user
    moves its sum by ½, and its release shares the round's draw and the round's budget. A round's noise is in proportion
    to the C that clipped it.

    Attributes:
        quantile: γ, the share of users who are to be left whole.
        rate: η, how fast the clip moves.
        share: of every draw's budget that pays for the bits, taken from the query's own.
        query: kind of the query whose clip adapts, starting from the clip that it has; None is the only one that is
            asked in more than one round.
    """

    quantile: float = Field(0.5, gt=0, lt=1)
    rate: float = Field(0.2, gt=0)
    share: float = Field(0.05, gt=0, lt=1)
    query: str | None = None

    def next_norm(self, norm: float, unclipped: float) -> float:
        """C·exp(−η(b̄ − γ)) for the noised mean b̄ of the bits, which is cut to [0, 1]: noise may take it outside."""
        mean = min(max(unclipped, 0.0), 1.0)
        return norm * math.exp(-self.rate * (mean - self.quantile))


BIT = "clip-bit"
"""The table of the shifted bits, and the kind under which their release stands in the ledger, after its query's."""
BIT_CLIP = 0.5
"""b_u − ½ is ½ or −½."""


def bit_of(query: str) -> str:
    """The kind under which the release of a query's clip bits stands in schedule and ledger."""
    return f"{query}/{BIT}"
