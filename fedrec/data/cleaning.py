"""From rows as read to `Interactions`, with a report of what was left out and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from fedrec.components import Config
from fedrec.data.encoding import Invalid, drop_unused, encode
from fedrec.data.interactions import BoolArray, IntArray, Interactions
from fedrec.data.readers import RawInteractions
from fedrec.errors import ConfigError, DataError

_REPEATED = "repeated pairs"


class CleaningConfig(Config):
    """What is left out, in this order.

    Attributes:
        invalid: what to do with rows without an id, or whose rating or time is not a finite number.
        min_rating: ratings become implicit feedback: interactions rated lower are left out. None keeps all.
        duplicates: which interaction of a repeated user-item pair is kept, by time (ties, and all where there are no
            times, by file order). It follows `min_rating`, so that a low rating never cancels a high one. With "last",
            what a user does again later is missing at its earlier time; a split at a global time notes that.
        max_interactions: users with more are outliers (robots, shared accounts) and left out. None keeps all.
        k_core: users and items with fewer interactions are left out, again and again until all have as many.
    """

    invalid: Invalid = "error"
    min_rating: float | None = None
    duplicates: Literal["first", "last", "error"] = "last"
    max_interactions: int | None = Field(None, ge=1)
    k_core: int = Field(1, ge=1)


@dataclass(frozen=True)
class CleaningStep:
    """What one step left: rows before and after it, users and items that still have a row."""

    source: str
    reason: str
    rows_before: int
    rows_after: int
    users: int
    items: int

    def __str__(self) -> str:
        dropped = self.rows_before - self.rows_after
        what = f"{dropped:,} dropped" if dropped else "none dropped"
        return (
            f"{self.source}: {self.reason}: {what}, "
            f"{self.rows_after:,} rows of {self.users:,} users and {self.items:,} items left"
        )


@dataclass(frozen=True)
class CleaningReport:
    """The steps of a cleaning in order; one line each."""

    steps: tuple[CleaningStep, ...]

    @property
    def repeated(self) -> int:
        """Interactions that were left out because their pair occurs again."""
        return sum(step.rows_before - step.rows_after for step in self.steps if step.reason.startswith(_REPEATED))

    def __str__(self) -> str:
        return "\n".join(str(step) for step in self.steps)


def clean(raw: RawInteractions, config: CleaningConfig | None = None) -> tuple[Interactions, CleaningReport]:
    """Clean the interactions of one source. File order is kept.

    Returns:
        The interactions, over vocabularies of the users and items that are left, with their attributes (missing for
        an id without a row of attributes); and the report.

    Raises:
        DataError: if a row is invalid or a pair repeated and the configuration says "error", if `min_rating` is set and
            there are no ratings, or if fewer than two users are left.
    """
    config = config or CleaningConfig()
    (interactions,) = encode([raw], config.invalid)
    read = _step(raw.source, "invalid rows", len(raw.rows), interactions)
    interactions, report = clean_encoded(interactions, config, raw.source)
    return interactions, CleaningReport((read, *report.steps))


def clean_encoded(
    interactions: Interactions, config: CleaningConfig, source: str
) -> tuple[Interactions, CleaningReport]:
    """`clean` for rows that are valid and on codes already; `source` says in messages where they come from."""
    _require_ratings([interactions], config, source)
    interactions, steps = _apply([*_rules_for_rows(config, source), *_rules_for_all(config)], interactions, source)
    (interactions,) = drop_unused([interactions])
    _require_two_users(interactions, source)
    return interactions, CleaningReport(tuple(steps))


def clean_parts(raws: Sequence[RawInteractions], config: CleaningConfig) -> tuple[list[Interactions], CleaningReport]:
    """Clean the parts of a split that is given as files, over vocabularies that they share.

    Only what concerns a row or a repeated pair of one file is done: leaving out users or items would change a given
    split. A part without ratings (a file of positives) passes `min_rating` whole, if another part has ratings.

    Raises:
        ConfigError: if `max_interactions` or `k_core` is set.
        DataError: as `clean` does.
    """
    if config.max_interactions is not None or config.k_core > 1:
        raise ConfigError(
            "data.clean: a given split keeps its users and items; remove max_interactions and k_core from clean"
        )
    parts = encode(raws, config.invalid)
    _require_ratings(parts, config, raws[0].source)
    steps = []
    for position, raw in enumerate(raws):
        steps.append(_step(raw.source, "invalid rows", len(raw.rows), parts[position]))
        parts[position], more = _apply(_rules_for_rows(config, raw.source), parts[position], raw.source)
        steps += more
    parts = drop_unused(parts)
    _require_two_users(parts[0], raws[0].source)
    return parts, CleaningReport(tuple(steps))


def k_core(user: IntArray, item: IntArray, k: int) -> BoolArray:
    """The largest set of interactions in which every user and every item has at least k: [n] bool."""
    keep = np.ones(len(user), dtype=np.bool_)
    n_users, n_items = int(user.max(initial=-1)) + 1, int(item.max(initial=-1)) + 1
    while True:
        user_degrees = np.bincount(user[keep], minlength=n_users)
        item_degrees = np.bincount(item[keep], minlength=n_items)
        smaller = keep & (user_degrees[user] >= k) & (item_degrees[item] >= k)
        if smaller.sum() == keep.sum():
            return keep
        keep = smaller


Rule = tuple[str, Callable[[Interactions], BoolArray]]  # what is left out, and which interactions are kept


def _apply(rules: Sequence[Rule], data: Interactions, source: str) -> tuple[Interactions, list[CleaningStep]]:
    steps = []
    for reason, keep in rules:
        kept = data.take(keep(data))
        steps.append(_step(source, reason, len(data), kept))
        data = kept
    return data, steps


def _rules_for_rows(config: CleaningConfig, source: str) -> list[Rule]:
    """What concerns a row or a repeated pair alone."""
    rules: list[Rule] = []
    if config.min_rating is not None:
        least = config.min_rating
        rules.append((f"rated below {least:g}", lambda data: _rated(data, least)))
    kept = {"first": "all but the first", "last": "all but the last", "error": "none"}[config.duplicates]
    rules.append((f"{_REPEATED}, {kept}", lambda data: _unrepeated(data, config.duplicates, source)))
    return rules


def _rules_for_all(config: CleaningConfig) -> list[Rule]:
    """What leaves out users and items."""
    rules: list[Rule] = []
    if config.max_interactions is not None:
        most = config.max_interactions
        reason = f"users with more than {most:,} interactions"
        rules.append((reason, lambda data: (data.user_degrees <= most)[data.user]))
    if config.k_core > 1:
        reason = f"users and items with fewer than {config.k_core} interactions"
        rules.append((reason, lambda data: k_core(data.user, data.item, config.k_core)))
    return rules


def _step(source: str, reason: str, before: int, left: Interactions) -> CleaningStep:
    users, items = int((left.user_degrees > 0).sum()), int((left.item_degrees > 0).sum())
    return CleaningStep(source, reason, before, len(left), users, items)


def _require_ratings(parts: Sequence[Interactions], config: CleaningConfig, source: str) -> None:
    if config.min_rating is not None and all(part.rating is None for part in parts):
        raise DataError(
            f"{source}: min_rating = {config.min_rating:g} and no column of ratings; "
            "name it with columns = { rating = '...' } or remove min_rating"
        )


def _require_two_users(data: Interactions, source: str) -> None:
    if data.n_users < 2:
        raise DataError(
            f"{source}: cleaning leaves {data.n_users} of the at least two users that a recommender needs; "
            "give more data or clean less"
        )


def _rated(data: Interactions, least: float) -> BoolArray:
    return np.ones(len(data), dtype=np.bool_) if data.rating is None else data.rating >= least


def _unrepeated(data: Interactions, keep: Literal["first", "last", "error"], source: str) -> BoolArray:
    pair = data.user * data.n_items + data.item
    order = np.arange(len(data)) if data.time is None else np.argsort(data.time, kind="stable")
    repeated = pd.Series(pair[order]).duplicated(keep="last" if keep == "last" else "first").to_numpy()
    if keep == "error" and repeated.any():
        at = order[np.argmax(repeated)]
        user, item = data.users.ids[data.user[at]], data.items.ids[data.item[at]]
        raise DataError(
            f"{source}: user '{user}' and item '{item}' occur together more than once; "
            "keep one of each with clean = { duplicates = 'last' }"
        )
    kept = np.empty(len(data), dtype=np.bool_)
    kept[order] = ~repeated
    return kept
