"""What lists show beyond being right: how much of the catalogue, how evenly, how unlike each other.

`items` is always [users, k] int64, the lists of `topk`, with -1 where a user's candidates ran out. Functions that give
one value a user divide by the length of that user's list.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.evaluation.csr import Csr

_SMOOTHING = 0.01  # α of Steck 2018: large enough to be finite, small enough not to matter
_SHARES_PER_CHUNK = 1 << 22  # 32 MB of float64
_LANCZOS_ROOM = 4  # a Lanczos basis has twice as many vectors as are sought, which the matrix must have room for


def exposure(items: Tensor, n_items: int) -> Tensor:
    """How many lists show each item: [n_items] int64."""
    return torch.bincount(items[items >= 0], minlength=n_items)


def coverage(shown: Tensor) -> float:
    """Share of the catalogue that is shown to anyone: |{i : x_i > 0}| / n, for exposure x.

    Follows PyG and RecBole (item coverage): the catalogue is every item of the vocabulary, cold ones included.

    Args:
        shown: [n_items] exposure of each item.

    Returns:
        A number in [0, 1]; larger is better.
    """
    return float((shown > 0).double().mean())


def gini(shown: Tensor) -> float:
    """Inequality of exposure, Σ_j (2j − n − 1) x_(j) / (n Σ_j x_(j)) for exposures x_(1) <= ... <= x_(n).

    0 if every item is shown equally often, 1 − 1/n if one item has it all. Follows RecBole; Elliot reports 1 − Gini.

    Args:
        shown: [n_items] exposure of each item.

    Returns:
        A number in [0, 1); smaller is better.

    Raises:
        DataError: if nothing is shown at all.
    """
    x = _require_shown(shown).sort().values
    n = len(x)
    rank = torch.arange(1, n + 1, dtype=torch.float64)
    return float(((2 * rank - n - 1) * x).sum() / (n * x.sum()))


def entropy(shown: Tensor) -> float:
    """Shannon entropy of exposure, −Σ_i p_i log2 p_i with p_i = x_i / Σx, in bits, over the whole catalogue.

    RecBole's divides the sum by the number of distinct items shown; this one does not.

    Args:
        shown: [n_items] exposure of each item.

    Returns:
        A number in [0, log2 n_items]; larger is better.

    Raises:
        DataError: if nothing is shown at all.
    """
    share = _require_shown(shown) / shown.sum()
    return float(torch.special.entr(share).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64)))


def personalization(items: Tensor) -> float:
    """How little two users' lists have in common: 1 − mean over pairs of |A ∩ B| / √(|A| |B|).

    Follows PyG, whose lists are all of one length, where this is 1 − |A ∩ B| / k. All pairs count: an item with
    weights w_u = 1/√|A_u| in the lists that show it adds ((Σw)² − Σw²)/2 to the sum over pairs.

    Args:
        items: [users, k] lists of at least two users.

    Returns:
        A number in [0, 1]; larger is better.

    Raises:
        DataError: if there are fewer than two lists, or an empty one.
    """
    users = len(items)
    if users < 2:
        raise DataError(f"personalization compares pairs of lists and there are {users}; evaluate at least two users")
    weight = list_weights(items)
    item = items[items >= 0]
    return unlikeness(torch.bincount(item, weights=weight), torch.bincount(item, weights=weight.square()), users)


def list_weights(items: Tensor) -> Tensor:
    """1/√|A_u| at every place of a list that holds an item, list by list: [places] float64.

    Raises:
        DataError: if a list is empty.
    """
    return _lengths(items).rsqrt().unsqueeze(1).expand(items.shape)[items >= 0]


def unlikeness(weights: Tensor, squares: Tensor, users: int) -> float:
    """`personalization` from sums over lists: of their weights w and of w², by item that they show.

    Args:
        weights, squares: [n_items] Σw and Σw².
        users: number of lists, at least two.
    """
    together = weights.square() - squares
    # The square roots of equal lists round to a hair above 1.
    return max(0.0, 1.0 - float(together.sum()) / (users * (users - 1)))


def popularity_lift(items: Tensor, popularity: Tensor, history: Tensor) -> float:
    """How much more popular the lists are than what their users chose: mean popularity of lists over that of histories.

    Both are means over users of a user's mean: GAP of the recommendations over GAP of the profiles, Abdollahpouri et
    al. 2019 (who subtract 1). 1 means that popularity is neither amplified nor damped.

    Args:
        items: [users, k] lists.
        popularity: [n_items] number of training interactions of each item.
        history: [users] mean popularity of each user's own training items, above 0.

    Returns:
        A number from 0 upwards; neither direction is better.
    """
    return float(mean_over_list(items, popularity.double()).mean() / history.mean())


def novelty(items: Tensor, popularity: Tensor) -> Tensor:
    """Surprise of the items shown, mean of −log2 p_i, with p_i the share of all training interactions that item i has.

    The free-discovery model of Vargas and Castells 2011, as in Elliot's EFD without relevance. An item without any
    training interaction counts as one with a single one, so that its surprise is finite and the largest.

    Args:
        items: [users, k] lists.
        popularity: [n_items] number of training interactions of each item.

    Returns:
        [users] float64, bits, in [0, log2 Σ popularity]; larger is better.

    Raises:
        DataError: if a list is empty.
    """
    surprise = torch.log2(popularity.sum().double()) - torch.log2(popularity.clamp(min=1).double())
    return mean_over_list(items, surprise)


def intra_list_diversity(items: Tensor, categories: Tensor) -> Tensor:
    """Unlikeness within a list: 1 − mean over pairs i ≠ j of cos(c_i, c_j) (Smyth and McClave 2001; Ziegler 2005).

    With unit vectors v_i, Σ_{i≠j} cos = ‖Σ_i v_i‖² − m for the m items of the list that have a category. An item
    without one has no cosine and takes part in no pair. A list with fewer than two items to compare is 0, not 1: there
    is no sign of diversity in it, and recommending items that nobody described must not pay.

    Args:
        items: [users, k] lists.
        categories: [n_items, width] non-negative category weights, a zero row for an item without a category.

    Returns:
        [users] float64 in [0, 1]; larger is better.
    """
    mean, pairs = _mean_cosine(items, categories)
    return torch.where(pairs > 0, 1.0 - mean, 0.0).clamp(0.0, 1.0)  # rounding may step outside


def embedding_diversity(items: Tensor, embeddings: Tensor) -> Tensor:
    """Unlikeness within a list by embeddings: 1 − mean over pairs i ≠ j of cos(e_i, e_j), as `intra_list_diversity`.

    Cosines of embeddings may be negative, so that a list can be more unlike than unrelated items are. Arms can be
    compared only by the same embeddings: those that `evaluate` takes, `item_factors`, are of the training data.

    Args:
        items: [users, k] lists.
        embeddings: [n_items, d], a zero row for an item without one, which takes part in no pair.

    Returns:
        [users] float64 in [0, 2], 0 without a pair; larger is better.
    """
    mean, pairs = _mean_cosine(items, embeddings)
    return torch.where(pairs > 0, 1.0 - mean, 0.0).clamp(0.0, 2.0)


def item_factors(train: Interactions, dim: int) -> Tensor:
    """Items as users see them: [n_items, ≤ dim] float64 rows of V·Σ, the truncated SVD of the training matrix.

    Cosines of two rows are those of the two items' columns in the best approximation of that rank. Lanczos iterations
    (ARPACK, in SciPy) from a fixed start find it to rounding, where a randomised SVD of few iterations is off by 0.001
    in the metric's mean; a small matrix, in which they would break down, is decomposed as a whole.

    Args:
        train: the training interactions; an item without any has a zero row.
        dim: dimensions; no more than the smaller side of the matrix.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    ones = np.ones(len(train))
    matrix = csr_array((ones, (train.user, train.item)), shape=(train.n_users, train.n_items))
    smaller = min(matrix.shape)
    if smaller <= _LANCZOS_ROOM * dim:
        _, values, rows = np.linalg.svd(matrix.toarray(), full_matrices=False)
    else:
        _, values, rows = svds(matrix, dim, v0=np.random.default_rng(0).uniform(size=smaller))
        values, rows = values[::-1], rows[::-1]
    factors = torch.from_numpy(np.ascontiguousarray(rows[:dim].T * values[:dim]))
    factors[torch.from_numpy(train.item_degrees == 0)] = 0.0
    return factors


def calibration_error(items: Tensor, history: Csr, categories: Tensor) -> Tensor:
    """How far the categories of a list are from those of its user's history: Σ_g p_g ln(p_g / q̃_g) (Steck 2018).

    p and q are the shares of categories in history and list, each item giving its categories equal shares of itself,
    and q̃ = .99 q + .01 p, with which it stays finite. Items without a category take part in neither. A list of nothing
    but such items is as wrong as can be, ln 100; a history of nothing but such items sets no aim, 0.

    Args:
        items: [users, k] lists, -1 where there is no item.
        history: by row, the training items of each user, (indptr [users + 1], items).
        categories: [n_items, width] non-negative category weights, a zero row for an item without a category.

    Returns:
        [users] float64 in [0, ln 100] nats; smaller is better.
    """
    weights = F.normalize(categories.double(), p=1.0, dim=1)
    indptr, known = history
    padded = torch.cat([weights, weights.new_zeros(1, weights.shape[1])])
    step = max(1, _SHARES_PER_CHUNK // max(1, weights.shape[1]))
    errors = []
    for start in range(0, len(items), step):
        rows = items[start : start + step]
        ends = indptr[start : start + len(rows) + 1]
        of_user = F.embedding_bag(known[ends[0] : ends[-1]], weights, ends[:-1] - ends[0], mode="sum")
        of_list = F.embedding_bag(rows.where(rows >= 0, len(weights)), padded, mode="sum")
        wanted, shown = (sums / sums.sum(dim=1, keepdim=True).clamp(min=1e-300) for sums in (of_user, of_list))
        errors.append(divergence(wanted, shown))
    return torch.cat(errors)


def divergence(wanted: Tensor, shown: Tensor) -> Tensor:
    """Kullback and Leibler's Σ_g p_g ln(p_g / q̃_g), with q̃ = .99 q + .01 p (Steck 2018, α = .01).

    Args:
        wanted: [n, groups] shares p; a row of zeros wants nothing and diverges by 0.
        shown: [n, groups] shares q; a row of zeros diverges by ln 100 from anything wanted.

    Returns:
        [n] float64 in [0, ln 100] nats.
    """
    mixed = (1.0 - _SMOOTHING) * shown + _SMOOTHING * wanted
    # Rounding may step below 0.
    terms: Tensor = torch.special.xlogy(wanted, torch.where(wanted > 0, wanted / mixed, 1.0))
    return terms.sum(dim=1).clamp(min=0.0)


def _mean_cosine(items: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """[users] mean cosine over pairs of a list's items that have a vector, and twice the number of such pairs."""
    unit = F.normalize(vectors.double(), dim=1)
    described = unit.square().sum(dim=1)
    # One more row, of zeros, is where an empty place of a list points to.
    rows = torch.cat([torch.cat([unit, described.unsqueeze(1)], dim=1), unit.new_zeros(1, unit.shape[1] + 1)])
    sums = F.embedding_bag(items.where(items >= 0, len(unit)), rows, mode="sum")
    count = sums[:, -1].round()
    together = sums[:, :-1].square().sum(dim=1) - count
    pairs = count * (count - 1)
    return together / pairs.clamp(min=1), pairs


def category_matrix(column: pd.Series) -> Tensor:
    """Which categories each item has: [n_items, n_categories] float64 of 0 and 1, categories in sorted order.

    Args:
        column: one value an item in code order; several categories are joined by "|", a missing value has none.
    """
    cells = column.reset_index(drop=True).astype("str").where(column.notna().to_numpy(), "").str.split("|").explode()
    cells = cells[cells != ""]
    codes, names = pd.factorize(cells, sort=True)
    matrix = torch.zeros(len(column), len(names), dtype=torch.float64)
    matrix[torch.tensor(cells.index.to_numpy(copy=True)), torch.from_numpy(codes)] = 1.0
    return matrix


def _require_shown(shown: Tensor) -> Tensor:
    if shown.sum() <= 0:
        raise DataError("no item is shown to anyone, so its distribution is undefined; evaluate at least one user")
    return shown.double()


def _lengths(items: Tensor) -> Tensor:
    length = (items >= 0).sum(dim=1)
    if (length == 0).any():
        raise DataError(f"{int((length == 0).sum())} lists are empty; leave such users out of the mean")
    return length.double()


def mean_over_list(items: Tensor, values: Tensor) -> Tensor:
    """[users] mean of the items' values over each list."""
    listed = items >= 0
    return (values[items.clamp(min=0)] * listed).sum(dim=1) / _lengths(items)
