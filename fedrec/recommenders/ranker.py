"""Rankers: candidates of a first stage, put in order by a classifier over features (Covington et al. 2016).

A part of the training interactions is held out. From the features of the rest the classifier learns which candidates
are held out, so that no interaction is among what its features are computed from. To rank, candidates and features
are computed again, from all training interactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.data.interactions import Interactions
from fedrec.errors import DataError, ModelError
from fedrec.recommenders.attributes import Columns
from fedrec.recommenders.histories import Histories
from fedrec.recommenders.holding_out import hold_out
from fedrec.recommenders.neighbors import ItemNeighbors, ItemNeighborsConfig, UserNeighbors, UserNeighborsConfig
from fedrec.recommenders.pair_features import NAMES, PairFeatures
from fedrec.recommenders.recommender import RECOMMENDERS, Tensors, Training
from fedrec.spaces import Integers, LogUniform, Space, Uniform
from fedrec.streams import Streams, mix

_USERS = 256  # ranked at a time: some tables of [users, items] are held for them


class RankerConfig(Config):
    """Settings that rankers share.

    Attributes:
        candidates: items of the first stage that are put in order; the others follow as the first stage has them.
        share: of each user's training interactions, which the classifier learns from.
        order: which ones: the last by "time", or "random".
        negatives: candidates drawn for each of them.
        items: of the item neighbours, the first stage and a feature.
        users: of the user neighbours, a feature.
        user_columns, item_columns: attributes that features are made of; "auto" takes those whose values recur.
    """

    candidates: int = Field(200, ge=1)
    share: float = Field(0.2, gt=0, lt=1)
    order: Literal["time", "random"] = "time"
    negatives: int = Field(4, ge=1)
    items: ItemNeighborsConfig = ItemNeighborsConfig()
    users: UserNeighborsConfig = UserNeighborsConfig()
    user_columns: Columns = "auto"
    item_columns: Columns = "auto"

    space: ClassVar[Mapping[str, Space]] = {
        "candidates": Integers(50, 500, log=True),
        "share": Uniform(0.1, 0.5),
        "negatives": Integers(2, 10),
    }


class ForestRankerConfig(RankerConfig):
    """Settings of `ForestRanker`, beside those of rankers.

    Attributes:
        trees: of the forest.
        leaf: examples that a leaf has at least.
    """

    trees: int = Field(100, ge=1)
    leaf: int = Field(50, ge=1)

    space: ClassVar[Mapping[str, Space]] = {**RankerConfig.space, "leaf": Integers(10, 300, log=True)}


@RECOMMENDERS.register("forest-ranker")
class ForestRanker:
    """Candidates of the item neighbours, ranked by a random forest over features."""

    config_class: ClassVar[type[Config]] = ForestRankerConfig

    def __init__(self, config: ForestRankerConfig) -> None:
        self.config = config
        self._stages = _TwoStages(config, "ForestRanker")

    def fit(self, train: Interactions, training: Training) -> None:
        """Learn to rank from a part of the training interactions.

        Raises:
            ConfigError: if there is no such column.
            DataError: if no user has two interactions, or no candidate is held out.
        """
        from sklearn.ensemble import RandomForestClassifier  # slow to import, and no node needs it

        seed = int(Streams(training.seed).numbers("forest").integers(2**32))  # what NumPy's old generator takes
        forest = RandomForestClassifier(self.config.trees, min_samples_leaf=self.config.leaf, random_state=seed)
        self._stages.fit(forest, train, training)
        for name, weight in zip(NAMES, forest.feature_importances_, strict=True):
            training.log(1, f"importance/{name}", float(weight), "simulation")

    def score(self, users: Tensor) -> Tensor:
        """The forest's probability for a candidate, negative numbers for others: [n] -> [n, n_items] float64."""
        return self._stages.score(users)

    def tensors(self) -> Tensors:
        """The trees, one after the other: at each node its feature (-2 in a leaf), threshold, children and value."""
        trees = [tree.tree_ for tree in self._stages.ready().estimators_]
        return {
            "nodes": torch.tensor([tree.node_count for tree in trees]),
            "feature": torch.from_numpy(np.concatenate([tree.feature for tree in trees])),
            "threshold": torch.from_numpy(np.concatenate([tree.threshold for tree in trees])),
            "left": torch.from_numpy(np.concatenate([tree.children_left for tree in trees])),
            "right": torch.from_numpy(np.concatenate([tree.children_right for tree in trees])),
            "value": torch.from_numpy(np.concatenate([tree.value[:, 0] for tree in trees])),
        }


class LogisticRankerConfig(RankerConfig):
    """Settings of `LogisticRanker`, beside those of rankers.

    Attributes:
        regularization: weight of half the squared norm of the weights, divided by the number of examples.
    """

    regularization: float = Field(1.0, gt=0)

    space: ClassVar[Mapping[str, Space]] = {**RankerConfig.space, "regularization": LogUniform(1e-2, 1e2)}


@RECOMMENDERS.register("logistic-ranker")
class LogisticRanker:
    """Candidates of the item neighbours, ranked by a logistic regression over features."""

    config_class: ClassVar[type[Config]] = LogisticRankerConfig

    def __init__(self, config: LogisticRankerConfig) -> None:
        self.config = config
        self._stages = _TwoStages(config, "LogisticRanker")

    def fit(self, train: Interactions, training: Training) -> None:
        """Learn to rank from a part of the training interactions.

        Raises:
            ConfigError: if there is no such column.
            DataError: if no user has two interactions, or no candidate is held out.
        """
        from sklearn.linear_model import LogisticRegression  # slow to import, and no node needs it
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        regression = LogisticRegression(C=1.0 / self.config.regularization, max_iter=1000)
        self._stages.fit(make_pipeline(StandardScaler(), regression), train, training)
        for name, weight in zip(NAMES, regression.coef_[0], strict=True):
            training.log(1, f"weight/{name}", float(weight), "simulation")

    def score(self, users: Tensor) -> Tensor:
        """The probability of a candidate, negative numbers for others: [n] -> [n, n_items] float64."""
        return self._stages.score(users)

    def tensors(self) -> Tensors:
        """Weights of the standardised features, the intercept, and what they are standardised by."""
        scaler, regression = (step for _, step in self._stages.ready().steps)
        return {
            "weights": torch.from_numpy(regression.coef_[0].copy()),
            "intercept": torch.from_numpy(regression.intercept_.copy()),
            "mean": torch.from_numpy(scaler.mean_.copy()),
            "scale": torch.from_numpy(scaler.scale_.copy()),
        }


class _TwoStages:
    """Candidates, and a scikit-learn classifier that puts them in order."""

    def __init__(self, config: RankerConfig, owner: str) -> None:
        self.config, self.owner = config, owner
        self._classifier: Any = None
        self._features: PairFeatures | None = None
        self._order = torch.zeros(0, dtype=torch.int64)

    def fit(self, classifier: Any, train: Interactions, training: Training) -> None:
        # Ties of the first stage are broken by the keys of items, in which codes have no say.
        self._order = torch.argsort(mix(train.items.keys))
        streams = Streams(training.seed)
        rest, held = hold_out(train, self.config.share, self.config.order, streams)
        features, labels = self._examples(self._features_of(rest), Histories.of(held), streams)
        classifier.fit(features, labels)
        training.progress(1, 1, None)
        self._features, self._classifier = self._features_of(train), classifier

    def _features_of(self, known: Interactions) -> PairFeatures:
        config = self.config
        items, users = ItemNeighbors(config.items), UserNeighbors(config.users)
        return PairFeatures.of(known, items, users, config.user_columns, config.item_columns)

    def _examples(self, features: PairFeatures, held: Histories, streams: Streams) -> tuple[np.ndarray, np.ndarray]:
        """Features [m, 6] and labels [m] of held-out items, and of others, among the candidates.

        A held-out item that the first stage does not find is no example: without negatives like it, it would teach that
        what the first stage scores low is good.
        """
        generator = streams.generator("negatives")
        found, labels = [], []
        for users in torch.split(torch.nonzero(held.degrees).squeeze(1), _USERS):
            candidates = self._candidates(features.first_stage(users), features.histories.take(users))
            wanted = torch.from_numpy(held.take(users).matrix.toarray() > 0)
            hit = wanted.gather(1, candidates.clamp(min=0)) & (candidates >= 0)
            owner, position = torch.nonzero(hit, as_tuple=True)
            others = torch.where(hit | (candidates < 0), -1, candidates).sort(dim=1, descending=True).values
            count = (others >= 0).sum(dim=1)
            slots = owner.repeat_interleave(self.config.negatives)
            slots = slots[count[slots] > 0]
            picked = (torch.rand(len(slots), generator=generator, dtype=torch.float64) * count[slots]).long()
            owners = torch.cat([owner, slots])
            items = torch.cat([candidates[owner, position], others[slots, picked]])
            found.append(features.at(users, owners, items))
            labels.append((torch.arange(len(items)) < len(owner)).numpy())
        label = np.concatenate(labels)
        if label.all() or not label.any():
            raise DataError(
                f"{self.owner}: {int(label.sum())} of {len(label)} examples are held-out items among the first "
                f"{self.config.candidates} candidates, which leaves nothing to tell apart; raise candidates"
            )
        return np.concatenate(found), label

    def _candidates(self, scores: Tensor, own: Histories) -> Tensor:
        """[n, candidates] the best items of the first stage outside those of the user; -1 where there are no more."""
        owner = torch.repeat_interleave(own.degrees)
        scores = scores.clone()
        scores[owner, own.items] = -torch.inf
        best = scores[:, self._order].sort(dim=1, descending=True, stable=True)
        k = min(self.config.candidates, scores.shape[1])
        return torch.where(best.values[:, :k] > -torch.inf, self._order[best.indices[:, :k]], -1)

    def score(self, users: Tensor) -> Tensor:
        self.ready()
        blocks = [self._score(block) for block in torch.split(users, _USERS)]
        return torch.cat(blocks) if blocks else torch.zeros(0, len(self._order), dtype=torch.float64)

    def _score(self, users: Tensor) -> Tensor:
        features = self._features
        assert features is not None  # `ready` was asked
        first = features.first_stage(users)
        candidates = self._candidates(first, features.histories.take(users))
        owner, position = torch.nonzero(candidates >= 0, as_tuple=True)
        items = candidates[owner, position]
        # Below every candidate, in the order of the first stage.
        scores = first - first.amax(dim=1, keepdim=True) - 1.0
        if len(items):
            probability = self._classifier.predict_proba(features.at(users, owner, items))[:, 1]
            scores[owner, items] = torch.from_numpy(probability)
        return scores

    def ready(self) -> Any:
        if self._classifier is None:
            raise ModelError(f"{self.owner} has not been fitted; call fit(train, training) before scoring")
        return self._classifier
