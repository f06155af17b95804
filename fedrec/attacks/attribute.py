"""Attribute inference: what do a user's answers say of the user's gender, or of anything else that tastes go with?

The attacker knows the attribute of some users (volunteers of its own), sees what a server sees of them, and trains a
classifier on it, which it then asks about the others. What the very histories would say is the ceiling.
"""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from fedrec.attacks.attack import ATTACKS, Finding, Target
from fedrec.attacks.history import history_scores
from fedrec.attacks.interaction import auc_with_error
from fedrec.attacks.observation import Observed, case_of, check_watchable, observe
from fedrec.components import Config
from fedrec.errors import ConfigError, did_you_mean


class AttributeConfig(Config):
    """Settings of `Attribute`.

    Attributes:
        attribute: a user column; its two most frequent values are told apart.
        sums: how many users' answers are seen as one sum, a case each; the first is the one who is asked about.
        known: share of the users whose attribute the attacker knows.
        query: the kind of query that is watched; None is whatever the arm asks first.
        rounds: how many are watched, their answers added up.
        regularization: C of the logistic regression, on features of norm 1.
    """

    attribute: str
    sums: tuple[int, ...] = (1, 10)
    known: float = Field(0.5, gt=0, lt=1)
    query: str | None = None
    rounds: int = Field(1, ge=1)
    regularization: float = Field(10.0, gt=0)


@ATTACKS.register("attribute")
class Attribute:
    """What attribute does a user have?"""

    config_class: ClassVar[type[Config]] = AttributeConfig

    def __init__(self, config: AttributeConfig) -> None:
        self.config = config

    def check(self, target: Target) -> None:
        """The arm must have the users, and they the attribute."""
        check_watchable(target, self.config.sums, self.config.rounds)
        _labels(target, self.config.attribute)

    def run(self, target: Target) -> list[Finding]:
        """AUC of the classifier on users whose attribute it was not told; chance is .5."""
        config = self.config
        kinds = () if config.query is None else ((config.query, 0),)
        (seen,) = observe(target, *kinds, rounds=config.rounds)
        label = _labels(target, config.attribute)[seen.users]
        subjects = torch.nonzero(label >= 0).flatten()
        order = torch.randperm(len(subjects), generator=target.streams.generator("attack/attribute/known"))
        subjects = subjects[order]
        cut = round(config.known * len(subjects))
        known, asked = subjects[:cut], subjects[cut:]
        if min(len(torch.unique(label[part])) for part in (known, asked)) < 2:
            raise ConfigError(
                f"attribute = '{config.attribute}': too few users to learn from; raise known, or take more"
            )
        features = {"the history itself": seen.own.float()}
        for size in config.sums:
            features[case_of(size)] = _features(seen, size, target)
        findings = []
        for case, values in features.items():
            directions = torch.nn.functional.normalize(values, dim=1)
            scores = classify(directions[known], label[known], directions[asked], config.regularization)
            area, error = auc_with_error(scores[label[asked] == 1], scores[label[asked] == 0])
            findings.append(Finding(case, "auc", area, error, 0.5, len(asked)))
        return findings


def classify(known: Tensor, label: Tensor, asked: Tensor, regularization: float) -> Tensor:
    """How much each of some users looks like having label 1: [m], by logistic regression.

    Args:
        known: [n, features] of the users whose label is known.
        label: [n] 0 or 1; both occur.
        asked: [m, features].
        regularization: C.
    """
    model = LogisticRegression(C=regularization, class_weight="balanced", max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an attacker takes what it gets
        model.fit(known.numpy(), label.numpy())
    return torch.from_numpy(np.asarray(model.decision_function(asked.numpy())))


def _features(seen: Observed, size: int, target: Target) -> Tensor:
    """[n, n_items] for each user what is read of a sum that the user is in, with others drawn at random."""
    generator = target.streams.generator(f"attack/attribute/{size}")
    rows = torch.zeros(len(seen.users), seen.own.shape[1])
    for members, _ in seen.groups(size, len(seen.users), generator):
        scores = history_scores(seen.query.kind, seen.sum_of(members, generator), size)
        # Of a single answer, items guessed to be negatives are left out: they say where the sampler went.
        rows[members[0]] = (scores.clamp(min=0.0) if size == 1 else scores - scores.mean()).float()
    return rows


def _labels(target: Target, attribute: str) -> Tensor:
    """[n_users] 0 and 1 for the two most frequent values, −1 for other or unknown ones."""
    table = target.train.user_attributes
    if attribute not in table.columns:
        known = [str(name) for name in table.columns]
        raise ConfigError(f"attribute: no user column '{attribute}'; {did_you_mean(attribute, known)}")
    values = table[attribute].astype("str").where(table[attribute].notna())
    frequent = sorted(values.value_counts().index[:2])
    if len(frequent) < 2:
        raise ConfigError(f"attribute = '{attribute}': only one value is known of it; take another column")
    labels = np.full(len(values), -1, dtype=np.int64)
    for code, value in enumerate(frequent):
        labels[(values == value).to_numpy()] = code
    return torch.from_numpy(labels)
