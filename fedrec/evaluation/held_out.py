"""Held-out items and how they are ranked: a whole part of the split in a simulation, its own users on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fedrec.data.interactions import Interactions
from fedrec.errors import DataError
from fedrec.evaluation.accuracy import ACCURACY
from fedrec.evaluation.candidates import draw_candidates, top_k_among, with_relevant
from fedrec.evaluation.csr import Csr
from fedrec.evaluation.metrics import MetricName
from fedrec.evaluation.topk import Scorer, TopK, score_chunks, top_k
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

    def rank_among(self, score: Scorer, users: Tensor, candidates: Tensor, k: int) -> TopK:
        """The lists among some candidates of each user."""
        lists, done = [], 0
        for some, scores in score_chunks(score, users, len(self.item_keys)):
            among = candidates[done : done + len(some)]
            lists.append(top_k_among(scores, among, k, self.user_keys[some], self.item_keys, self.streams))
            done += len(some)
        return TopK(users, torch.cat([items for _, items in lists]), torch.cat([values for values, _ in lists]))

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
                lists[True] = self.rank_among(score, users, among, longest).hits(self.relevant)
            else:
                lists[False] = self.rank(score, users, longest).hits(self.relevant)
        relevant = self.degrees(users)
        return {
            name: ACCURACY[metric.metric](lists[metric.sampled][:, : metric.k], relevant)
            for name, metric in parsed.items()
        }
