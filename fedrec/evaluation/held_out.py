"""Held-out items and how they are ranked: a whole part of the split in a simulation, its own users on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.evaluation.accuracy import ACCURACY, auc
from fedrec.evaluation.candidates import N_SAMPLED, draw_candidates, top_k_among, with_relevant
from fedrec.evaluation.config import Candidates
from fedrec.evaluation.csr import Csr, rows_of
from fedrec.evaluation.heaps import require_finite_scores
from fedrec.evaluation.metrics import MetricName
from fedrec.evaluation.topk import Ranking, Scorer, TopK, rank, score_chunks, top_k
from fedrec.streams import Streams


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One held-out part, and how it is ranked; nothing else of the split.

    Attributes:
        part: its name, "valid" or "test"; each draws sampled candidates of its own.
        users: [n] codes of users with a held-out item, ascending.
        warm: [n] bool, whether they have a training item.
        relevant: the held-out items.
        known: items that are no candidates.
        user_keys, item_keys: stream keys by code.
        streams: of the run; they order ties and draw candidates.
    """

    part: str
    users: Tensor
    warm: Tensor
    relevant: Csr
    known: tuple[Csr, ...]
    user_keys: Tensor
    item_keys: Tensor
    streams: Streams

    @classmethod
    def of(cls, items: Interactions, train: Interactions, known: Sequence[Interactions], seed: int, part: str) -> Self:
        """A part of a split.

        Raises:
            DataError: if none of its users has a training item.
        """
        users = torch.from_numpy(items.user_degrees).nonzero().squeeze(1)
        warm = torch.from_numpy(train.user_degrees)[users] > 0
        if not warm.any():
            raise DataError("no user has both a training item and a held-out item; split so that histories remain")
        csrs = tuple(other.csr for other in known)
        return cls(part, users, warm, items.csr, csrs, items.users.keys, items.items.keys, Streams(seed))

    @property
    def warm_users(self) -> Tensor:
        """Those whom means are over."""
        return self.users[self.warm]

    def degrees(self, users: Tensor) -> Tensor:
        """[n] number of held-out items of some users."""
        return self.relevant[0].diff()[users]

    def candidates(self, users: Tensor) -> Tensor:
        """The sampled candidates of some users and their held-out items."""
        outside, purpose = (*self.known, self.relevant), f"candidates/{self.part}"
        drawn = draw_candidates(self.streams, purpose, users, outside, self.user_keys, self.item_keys)
        return with_relevant(drawn, users, self.relevant)

    def rank(self, score: Scorer, users: Tensor, k: int) -> TopK:
        """The lists among all candidates."""
        return top_k(
            score,
            users,
            k,
            exclude=self.known,
            user_keys=self.user_keys,
            item_keys=self.item_keys,
            ties=self.streams,
        )

    def rank_among(self, score: Scorer, users: Tensor, candidates: Tensor, k: int) -> Ranking:
        """The lists among some candidates of each user, and where the held-out ones stand, as `candidates` has them."""
        sampled = _Sampled(self, candidates, k)
        for some, scores in score_chunks(score, users, len(self.item_keys)):
            require_finite_scores(scores)
            sampled(some, scores)
        return sampled.ranking(users)

    def rankings(
        self,
        score: Scorer,
        users: Tensor,
        k: int,
        among: Sequence[Candidates],
        watch: Callable[[Tensor, Tensor], None] | None = None,
    ) -> dict[Candidates, Ranking]:
        """The lists among each sort of candidates, and where held-out items stand, from scoring every user once.

        Args:
            score: scores of every item.
            users: [n] int64 codes of users with a held-out item.
            k: length of the lists.
            among: sorts of candidates.
            watch: is shown every chunk of finite scores: (users, scores).
        """
        sampled = _Sampled(self, self.candidates(users), k) if "sampled-99" in among else None
        watchers = [watcher for watcher in (sampled, watch) if watcher is not None]

        def show(some: Tensor, scores: Tensor) -> None:
            for watcher in watchers:
                watcher(some, scores)

        found: dict[Candidates, Ranking] = {}
        if "all" in among:
            found["all"] = rank(
                score,
                users,
                k,
                exclude=self.known,
                user_keys=self.user_keys,
                item_keys=self.item_keys,
                ties=self.streams,
                relevant=self.relevant,
                watch=show,
            )
        else:
            for some, scores in score_chunks(score, users, len(self.item_keys)):
                require_finite_scores(scores)
                show(some, scores)
        if sampled is not None:
            found["sampled-99"] = sampled.ranking(users)
        return {sort: found[sort] for sort in among}

    def accuracy(
        self, score: Scorer, users: Tensor, names: Sequence[str], candidates: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """Accuracy metrics of some users with a held-out item.

        Args:
            score: scores of every item.
            users: [n] int64 codes.
            names: of metrics with a length, "ndcg@10" or "ndcg@10-sampled-99".
            candidates: what `candidates` returned for these users, if it is at hand.

        Returns:
            [n] float64 values by name.
        """
        parsed = {name: MetricName.of(name) for name in names}
        longest = max(metric.k or 0 for metric in parsed.values())
        lists: dict[bool, Tensor] = {}
        for sampled in {metric.sampled for metric in parsed.values()}:
            if sampled:
                among = self.candidates(users) if candidates is None else candidates
                lists[True] = self.rank_among(score, users, among, longest).lists.hits(self.relevant)
            else:
                lists[False] = self.rank(score, users, longest).hits(self.relevant)
        relevant = self.degrees(users)
        return {
            name: ACCURACY[metric.metric](lists[metric.sampled][:, : metric.k], relevant)
            for name, metric in parsed.items()
        }


class _Sampled:
    """Ranks chunk after chunk of the same users among candidates of their own."""

    def __init__(self, held_out: HeldOut, candidates: Tensor, k: int) -> None:
        self._held_out, self._candidates, self._k = held_out, candidates, k
        self._values: list[Tensor] = []
        self._items: list[Tensor] = []
        self._areas: list[Tensor] = []
        self._done = 0

    def __call__(self, users: Tensor, scores: Tensor) -> None:
        """Rank the next users."""
        among = self._candidates[self._done : self._done + len(users)]
        self._done += len(users)
        keys, item_keys = self._held_out.user_keys[users], self._held_out.item_keys
        values, items = top_k_among(scores, among, self._k, keys, item_keys, self._held_out.streams)
        of_candidates = scores.cpu().gather(1, among.clamp(min=0)).double().masked_fill(among < 0, -torch.inf)
        held_out = torch.arange(among.shape[1]).expand_as(among) >= N_SAMPLED
        self._values.append(values)
        self._items.append(items)
        self._areas.append(auc(of_candidates, held_out))

    def ranking(self, users: Tensor) -> Ranking:
        """What all of them came to."""
        return Ranking(TopK(users, torch.cat(self._items), torch.cat(self._values)), torch.cat(self._areas))


class Predictions:
    """Collects what a model predicts for the interactions of a part, chunk after chunk of scores.

    Attributes:
        part: interactions with ratings.
    """

    def __init__(self, part: Interactions) -> None:
        self.part = part
        assert part.rating is not None
        order = np.lexsort((part.item, part.user))  # as `Interactions.csr` has them
        self._rating = torch.from_numpy(part.rating[order])
        self._predicted = torch.full((len(part),), torch.nan, dtype=torch.float64)

    def __call__(self, users: Tensor, scores: Tensor) -> None:
        """Look at the scores of some users."""
        row, item = rows_of(self.part.csr, users)
        self._predicted[self._places(users)] = scores[row.to(scores.device), item.to(scores.device)].double().cpu()

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and ratings of some users that were looked at, both [m] float64."""
        places = self._places(users)
        return self._predicted[places], self._rating[places]

    def _places(self, users: Tensor) -> Tensor:
        indptr, items = self.part.csr
        return rows_of((indptr, torch.arange(len(items))), users)[1]
