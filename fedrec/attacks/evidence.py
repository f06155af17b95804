"""Reading the releases of a whole run for signs of canaries: a likelihood ratio for each, whatever made the noise.

Every release is a vector r = Σ_u b_u c_u + z beyond what the known users add to it: b_u = 1 if canary u is in, c_u
what it adds then, which the observer knows, and z Gaussian (or nearly so) of a known deviation s on every entry. Where
canaries add to rows of their own each could be read by itself. They share rows as well (negatives that were sampled, a
network, one row for all users), and there the other canaries' coins are noise, too. Taken as Gaussian, with the mean
and the variance of their coins, r has the covariance Σ = s² I + v Σ_u c_u c_uᵀ, and the likelihood ratio of u is that
of two Gaussians whose means differ by c_u. All that it takes are inner products, ⟨c_u, c_w⟩ / s² and ⟨r, c_u⟩ / s²,
added up over independent releases.

What mechanisms differ in is what has to be done before that is so:

- noise that is correlated over rounds is whitened: with w = C⁻¹z, Σ_s C_ts r_s has the independent noise z_t, and a
  canary adds Σ_s C_ts c_s to it;
- a clip that adapts, clips by table, budgets that grow: each table of each release has an s of its own, which the
  release was asked for with;
- a hidden sample: the ratio is that of the round, and its mean over being drawn or not;
- single noised answers (local trust): a canary's own answer is read, of two that are as far apart as can be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from fedrec.federated import Contribution, Outer
from fedrec.federated.secure_words import entries

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

_FEW = 30  # entries, which tell a deviation to 13%
_LEAST = 1e-6  # of the claimed deviation that is measured: without any noise ratios would be infinite
_DENSE = 0.05  # share of entries from which on a matrix is multiplied as a dense one


@dataclass(eq=False)
class Evidence:
    """Inner products of what canaries add to releases and of what was seen, in units of the noise, added up.

    Attributes:
        gram: [m, m] float64, Σ ⟨c_u, c_w⟩ / s².
        read: [m] float64, Σ ⟨r, c_u⟩ / s².
    """

    gram: Tensor
    read: Tensor

    @classmethod
    def none(cls, canaries: int) -> Evidence:
        """Before anything was seen."""
        return cls(torch.zeros(canaries, canaries, dtype=torch.float64), torch.zeros(canaries, dtype=torch.float64))

    def add(self, gram: Floats, read: Floats, deviation: float) -> None:
        """A table of a release.

        Args:
            gram: [m, m] ⟨c_u, c_w⟩.
            read: [m] ⟨r, c_u⟩.
            deviation: s.
        """
        self.gram += torch.from_numpy(gram) / deviation**2
        self.read += torch.from_numpy(read) / deviation**2

    def log_ratios(self, chance: float, noise: float = 1.0) -> Tensor:
        """[m] log likelihood ratio of each canary's being in what was released, the others' being random.

        With G = `gram`, v = p (1 − p) and K = (I + v G)⁻¹, c_uᵀ Σ⁻¹ c_w = (K G)_uw, where Σ has u's own variance in it;
        without it, c_uᵀ Σ_{−u}⁻¹ = c_uᵀ Σ⁻¹ / (1 − v (K G)_uu) (Sherman & Morrison). That divisor is K_uu, and is taken
        from there: as a difference it would be one of equal numbers where there is no noise to speak of.

        Args:
            chance: p, of each of the others to be in.
            noise: the deviation that the releases had, in units of the s that they were added with.
        """
        gram, read = self.gram / noise**2, self.read / noise**2
        variance, one = chance * (1 - chance), torch.eye(len(gram), dtype=torch.float64)
        centred = read - chance * gram.sum(dim=1)
        solved = torch.linalg.solve(one + variance * gram, torch.cat([one, centred.unsqueeze(1)], dim=1))
        left, found = solved[:, :-1].diagonal(), solved[:, -1]
        ratios: Tensor = (found + (chance - 0.5) * (1 - left) / variance) / left
        return ratios


def inner_products(added: csr_array) -> Floats:
    """[m, m] ⟨c_u, c_w⟩ of the rows of a sparse matrix."""
    columns = np.unique(added.indices)
    if added.nnz > _DENSE * added.shape[0] * len(columns):
        dense = added[:, columns].toarray()
        return np.asarray(dense @ dense.T)
    return np.asarray((added @ added.T).toarray())


def measured_deviation(added: csr_array, beyond: Floats, claimed: float, *, symmetric: bool) -> float:
    """The deviation of the noise on the entries that no canary adds to.

    Args:
        added: [m, entries] what canaries add.
        beyond: [entries] what was released beyond the known users' sum.
        claimed: what it should be; returned where too few entries are left to measure.
        symmetric: whether the table is, whose noise has half the variance beside the diagonal.
    """
    free = np.ones(added.shape[1], dtype=bool)
    free[added.indices] = False
    if free.sum() < _FEW:
        return claimed
    found = float(np.sqrt(np.square(beyond[free]).mean()))
    return max(found * (2**0.5 if symmetric else 1.0), _LEAST * claimed)


@dataclass(eq=False)
class Whitening:
    """Sums of releases over rounds whose noise is independent: C r, C the banded Toeplitz matrix of `coefficients`.

    Attributes:
        coefficients: [p] of the columns of C, `fedrec.privacy.continual.square_root`.
    """

    coefficients: Floats
    _recent: dict[str, list[tuple[csr_array, Floats]]] = field(default_factory=dict)

    def next(self, table: str, added: csr_array, beyond: Floats) -> tuple[csr_array, Floats]:
        """Σ_j c_j of the releases j rounds ago, of what canaries add and of what is seen alike."""
        recent = self._recent.setdefault(table, [])
        recent.append((added, beyond))
        del recent[: -len(self.coefficients)]
        whole, seen = added, beyond
        for coefficient, (earlier, then) in zip(self.coefficients[1:], reversed(recent[:-1]), strict=False):
            whole, seen = whole + coefficient * earlier, seen + coefficient * then
        return csr_array(whole), seen


def sparse_rows(parts: Sequence[tuple[Tensor, Contribution]], canaries: int, shape: tuple[int, int]) -> csr_array:
    """Contributions to one table as a sparse matrix of canaries by entries of the table.

    Args:
        parts: (number of the canary that each owner is, contributions).
        canaries: m.
        shape: of the table.
    """
    rows: list[Places] = []
    columns: list[Places] = []
    values: list[Floats] = []
    for numbers, part in parts:
        for owner, places, value in _by_owner(part, shape[1]):
            rows.append(numbers.numpy()[owner])
            columns.append(places)
            values.append(value)
    nothing: Places = np.zeros(0, dtype=np.int64)
    where = (np.concatenate([nothing, *rows]), np.concatenate([nothing, *columns]))
    found = coo_array((np.concatenate([np.zeros(0), *values]), where), shape=(canaries, math.prod(shape))).tocsr()
    found.eliminate_zeros()
    return csr_array(found)


def _by_owner(part: Contribution, width: int) -> list[tuple[Places, Places, Floats]]:
    """(owner, place in the flat table, value) of every entry."""
    owner = part.owner.numpy()
    if not isinstance(part, Outer):
        places, values = entries(part, width)
        return [(np.repeat(owner, part.value.shape[1]), places, values)]
    found = []
    for one in np.unique(owner):
        mine = torch.from_numpy(owner == one)
        places, values = entries(Outer(part.owner[mine], part.index[mine], part.value[mine]), width)
        found.append((np.full(len(places), one), places, values))
    return found
