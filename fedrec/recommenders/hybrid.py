"""Hybrids of other recommenders: weighted sums, reciprocal rank fusion, and stacking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.recommenders.histories import Histories
from fedrec.recommenders.holding_out import hold_out
from fedrec.recommenders.members import Ensemble, Member
from fedrec.recommenders.recommender import RECOMMENDERS, Tensors, Training
from fedrec.recommenders.sampling import Complement, sample_negatives
from fedrec.spaces import Integers, LogUniform, Space
from fedrec.streams import Streams

_USERS = 1024  # whose scores are held at a time when weights are learned
_EMPTY = Histories(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 0)


def standardized(scores: Tensor, histories: Histories) -> Tensor:
    """Each user's scores with mean 0 and deviation 1 over the items outside their history; 0 for those within.

    Scores of different models are then of one size. A row of equal scores becomes 0.

    Args:
        scores: [n, n_items] float64.
        histories: of the same users.
    """
    outside = ~_own(histories)
    count = outside.sum(dim=1, keepdim=True).clamp(min=1)
    centred = torch.where(outside, scores - (scores * outside).sum(dim=1, keepdim=True) / count, 0.0)
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    # Rounding leaves about 1e-16 of a row of equal scores, which must not be blown up.
    level = scores.abs().amax(dim=1, keepdim=True) * 1e-12
    return torch.where(deviation > level, centred / deviation, 0.0)


def reciprocal_ranks(scores: Tensor, histories: Histories, constant: float) -> Tensor:
    """1 / (constant + rank) of each item outside the history, rank 1 the best, ties at their mean; 0 for those within.

    Args:
        scores: [n, n_items] float64.
        histories: of the same users.
        constant: how little the first ranks stand out.
    """
    from scipy.stats import rankdata  # slow to import, and no node needs it

    own = _own(histories)
    ranks = rankdata(-scores.masked_fill(own, -torch.inf).numpy(), axis=1)
    return torch.where(own, 0.0, 1.0 / (constant + torch.from_numpy(ranks)))


def _own(histories: Histories) -> Tensor:
    """[n, n_items] bool, whether the user has the item."""
    own = torch.zeros(len(histories), histories.n_items, dtype=torch.bool)
    own[torch.repeat_interleave(histories.degrees), histories.items] = True
    return own


Members = Annotated[tuple[Member, ...], Field(min_length=2)]


class WeightedConfig(Config):
    """Settings of `Weighted`.

    Attributes:
        members: the recommenders, each `{ kind = "...", ... }`; federated methods may be among them.
        weights: of the members in turn; without any, all weigh the same.
    """

    members: Members
    weights: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if self.weights and len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} members; give one each, or none")
        return self


@RECOMMENDERS.register("weighted")
class Weighted:
    """A hybrid: the weighted sum of its members' standardised scores."""

    config_class: ClassVar[type[Config]] = WeightedConfig

    def __init__(self, config: WeightedConfig) -> None:
        self.config = config
        self._ensemble = Ensemble(config.members, "Weighted")
        self._histories = _EMPTY

    def fit(self, train: Interactions, training: Training) -> None:
        """Fit the members."""
        self._ensemble.fit(train, training)
        self._histories = Histories.of(train)
        training.progress(1, 1, None)

    def score(self, users: Tensor) -> Tensor:
        """Σ w_m (s_m − mean) / deviation, over the items outside the history: [n] -> [n, n_items] float64."""
        return self._sum(self._ensemble.scores(users), self._histories.take(users))

    @property
    def folds_in(self) -> bool:
        """Whether all members do."""
        return self._ensemble.folds_in

    def score_histories(self, histories: Histories) -> Tensor:
        """The same for any users, from their items."""
        return self._sum(self._ensemble.scores_of(histories), histories)

    def _sum(self, scores: Iterable[Tensor], histories: Histories) -> Tensor:
        weights = self.config.weights or (1.0,) * len(self.config.members)
        parts = (weight * standardized(s, histories) for weight, s in zip(weights, scores, strict=True))
        return torch.stack(list(parts)).sum(dim=0)

    def tensors(self) -> Tensors:
        """Those of the members."""
        return self._ensemble.tensors()


class RankFusionConfig(WeightedConfig):
    """Settings of `RankFusion`, beside members and weights.

    Attributes:
        constant: added to every rank; 60 in the paper.
    """

    constant: float = Field(60.0, ge=0)

    space: ClassVar[Mapping[str, Space]] = {"constant": LogUniform(1, 200)}


@RECOMMENDERS.register("rank-fusion")
class RankFusion:
    """A hybrid: the weighted sum of its members' reciprocal ranks (Cormack et al. 2009)."""

    config_class: ClassVar[type[Config]] = RankFusionConfig

    def __init__(self, config: RankFusionConfig) -> None:
        self.config = config
        self._ensemble = Ensemble(config.members, "RankFusion")
        self._histories = _EMPTY

    def fit(self, train: Interactions, training: Training) -> None:
        """Fit the members."""
        self._ensemble.fit(train, training)
        self._histories = Histories.of(train)
        training.progress(1, 1, None)

    def score(self, users: Tensor) -> Tensor:
        """Σ w_m / (constant + rank_m), over the items outside the history: [n] -> [n, n_items] float64."""
        return self._sum(self._ensemble.scores(users), self._histories.take(users))

    @property
    def folds_in(self) -> bool:
        """Whether all members do."""
        return self._ensemble.folds_in

    def score_histories(self, histories: Histories) -> Tensor:
        """The same for any users, from their items."""
        return self._sum(self._ensemble.scores_of(histories), histories)

    def _sum(self, scores: Iterable[Tensor], histories: Histories) -> Tensor:
        weights = self.config.weights or (1.0,) * len(self.config.members)
        parts = (
            weight * reciprocal_ranks(s, histories, self.config.constant)
            for weight, s in zip(weights, scores, strict=True)
        )
        return torch.stack(list(parts)).sum(dim=0)

    def tensors(self) -> Tensors:
        """Those of the members."""
        return self._ensemble.tensors()


class StackingConfig(Config):
    """Settings of `Stacking`.

    Attributes:
        members: the recommenders, each `{ kind = "...", ... }`; federated methods may be among them.
        share: of each user's training interactions, which the weights are learned from.
        order: which ones: the last by "time", or "random".
        negatives: drawn for each of them, uniformly outside the user's training items.
        regularization: weight of half the squared norm of the weights, divided by the number of examples.
    """

    members: Members
    share: float = Field(0.1, gt=0, lt=1)
    order: Literal["time", "random"] = "time"
    negatives: int = Field(20, ge=1)
    regularization: float = Field(1.0, gt=0)

    space: ClassVar[Mapping[str, Space]] = {"negatives": Integers(4, 100, log=True)}


@RECOMMENDERS.register("stacking")
class Stacking:
    """A hybrid: a logistic regression on its members' standardised scores (Wolpert 1992).

    The weights are learned on a part of the training interactions that the members had not seen; then the members are
    fitted again, on all of them.
    """

    config_class: ClassVar[type[Config]] = StackingConfig

    def __init__(self, config: StackingConfig) -> None:
        self.config = config
        self._ensemble = Ensemble(config.members, "Stacking")
        self._histories = _EMPTY
        self._weights = torch.zeros(0, dtype=torch.float64)

    def fit(self, train: Interactions, training: Training) -> None:
        """Learn the weights, then fit the members.

        Raises:
            DataError: if no user has two training interactions, or if one has every item.
        """
        from sklearn.linear_model import LogisticRegression  # slow to import, and no node needs it

        streams = Streams(training.seed)
        rest, held = hold_out(train, self.config.share, self.config.order, streams)
        self._ensemble.fit(rest, training, "first/")
        training.progress(1, 2, None)
        features, label = self._examples(train, rest, held, streams)
        strength = 1.0 / self.config.regularization
        learned = LogisticRegression(C=strength, max_iter=1000).fit(features, label)
        self._weights = torch.from_numpy(learned.coef_[0])
        for name, weight in zip(self._ensemble.names, self._weights.tolist(), strict=True):
            training.log(1, f"weight/{name}", weight, "simulation")
        self._ensemble.fit(train, training)
        self._histories = Histories.of(train)
        training.progress(2, 2, None)

    def _examples(
        self, train: Interactions, rest: Interactions, held: Interactions, streams: Streams
    ) -> tuple[np.ndarray, np.ndarray]:
        """Standardised scores of held-out items and of negatives, [m, members], and which they are, [m]."""
        outside = Complement.of(*train.csr, train.n_items)
        generator = streams.generator("negatives")
        histories, held_histories = Histories.of(rest), Histories.of(held)
        features, labels = [], []
        for users in torch.split(torch.nonzero(held_histories.degrees).squeeze(1), _USERS):
            positive = held_histories.take(users)
            owner = torch.repeat_interleave(positive.degrees)
            negative = sample_negatives(generator, outside, users[owner], self.config.negatives)
            items = torch.cat([positive.items.unsqueeze(1), negative], dim=1)
            known = histories.take(users)
            scores = (standardized(s, known)[owner.unsqueeze(1), items] for s in self._ensemble.scores(users))
            features.append(torch.stack(list(scores), dim=2).flatten(0, 1))
            label = torch.zeros(items.shape)
            label[:, 0] = 1.0
            labels.append(label.flatten())
        return torch.cat(features).numpy(), torch.cat(labels).numpy()

    def score(self, users: Tensor) -> Tensor:
        """Σ w_m (s_m − mean) / deviation with the learned weights: [n] -> [n, n_items] float64."""
        return self._sum(self._ensemble.scores(users), self._histories.take(users))

    @property
    def folds_in(self) -> bool:
        """Whether all members do."""
        return self._ensemble.folds_in

    def score_histories(self, histories: Histories) -> Tensor:
        """The same for any users, from their items."""
        return self._sum(self._ensemble.scores_of(histories), histories)

    def _sum(self, scores: Iterable[Tensor], histories: Histories) -> Tensor:
        parts = [weight * standardized(s, histories) for weight, s in zip(self._weights, scores, strict=True)]
        return torch.stack(parts).sum(dim=0)

    def tensors(self) -> Tensors:
        """The weights of the members, and the members' own tensors."""
        return {**self._ensemble.tensors(), "weights": self._weights}
