"""The best candidates of some users so far, as scores come in: the compiled loops of ranking behind tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fedrec.errors import ModelError
from fedrec.evaluation.csr import Csr


def require_finite_scores(scores: Tensor) -> None:
    """Raise a ModelError if a score is NaN or infinite."""
    low, high = scores.aminmax()  # NaN and inf both reach the extremes: one pass, a tenth of the time of isfinite
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = int((~torch.isfinite(scores)).sum())
        raise ModelError(
            f"score() returned {bad} NaN or infinite values for {len(scores)} users; "
            "the model diverged and must not be ranked: lower its learning rate"
        )


@dataclass(frozen=True, eq=False)
class Heaps:
    """One heap a user: the candidates of highest score, of equal ones those of smallest word, the worst at the root.

    Attributes:
        starts: [n] int64 where each user's stream of tie words starts.
        steps: [n_items] int64 what an item adds to it.
        excluded: by row, the items that are no candidates, ascending.
        cursor: [n] int64 the first excluded item that lies behind what came in.
        value, word, item: [n, k] the heaps.
        size: [n] int64 how many candidates each holds.
    """

    starts: Tensor
    steps: Tensor
    excluded: Csr
    cursor: Tensor
    value: Tensor
    word: Tensor
    item: Tensor
    size: Tensor

    @classmethod
    def of(cls, starts: Tensor, steps: Tensor, excluded: Csr, k: int, dtype: torch.dtype) -> Self:
        """Empty heaps of k candidates, for scores of a type, float32 or float64."""
        shape = (len(starts), k)
        value = torch.empty(shape, dtype=dtype)
        word, item = (torch.empty(shape, dtype=torch.int64) for _ in range(2))
        size = torch.zeros(len(starts), dtype=torch.int64)
        return cls(starts, steps, excluded, excluded[0][:-1].clone(), value, word, item, size)

    def enter(self, scores: Tensor, first_item: int, surely_finite: bool = False) -> None:
        """Let the scores of the next items enter.

        Args:
            scores: [n, width] contiguous, of the items from `first_item` on; items come in ascending order.
            first_item: code of the item of the first column.
            surely_finite: whether it is known that every score is finite, so that none need be looked at for it.

        Raises:
            ModelError: if a score is NaN or infinite.
        """
        from fedrec.evaluation._compiled import rank_tile

        integer = torch.int32 if scores.dtype == torch.float32 else torch.int64
        infinite = torch.tensor(torch.inf, dtype=scores.dtype).view(integer).numpy()[()]
        finite = rank_tile(
            scores.numpy(),
            scores.view(integer).numpy(),
            infinite.dtype.type(torch.iinfo(integer).max),
            infinite,
            surely_finite,
            first_item,
            self.starts.numpy(),
            self.steps.numpy(),
            self.excluded[1].numpy(),
            self.cursor.numpy(),
            self.excluded[0][1:].numpy(),
            self.value.numpy(),
            self.word.numpy(),
            self.item.numpy(),
            self.size.numpy(),
        )
        if not finite:
            require_finite_scores(scores)

    def sort_into(self, values: Tensor, items: Tensor) -> None:
        """Empty the heaps into lists, best first: [n, k] float64 and int64; -inf and -1 where candidates ran out."""
        from fedrec.evaluation._compiled import sort_heaps

        sort_heaps(*(x.numpy() for x in (self.value, self.word, self.item, self.size, values, items)))

    def areas(self, scores: Tensor, relevant: Csr) -> Tensor:
        """[n] float64, `accuracy.auc` of the relevant items, by row and not excluded, among all candidates.

        Args:
            scores: [n, n_items] finite scores of every item, contiguous.
            relevant: by row, the relevant items.
        """
        from fedrec.evaluation._compiled import count_wins

        wins, others = (torch.empty(len(scores), dtype=torch.int64) for _ in range(2))
        (out, excluded), (wanted, items) = self.excluded, relevant
        count_wins(
            *(x.numpy() for x in (scores, excluded, out[:-1], out[1:], items, wanted[:-1], wanted[1:], wins, others))
        )
        pairs = wanted.diff() * others
        return torch.where(pairs > 0, wins.double() / (2 * pairs.clamp(min=1)), 0.5)
