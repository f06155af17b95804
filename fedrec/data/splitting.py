"""Train, validation and test: what is held out, and what a reader of the results must know about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from fedrec.components import Config
from fedrec.data.encoding import drop_unused
from fedrec.data.interactions import FloatArray, IntArray, Interactions, Split
from fedrec.data.readers import ColumnsConfig
from fedrec.errors import DataError
from fedrec.streams import Streams

Order = Literal["time", "random"]

TRAIN, VALID, TEST = range(3)


class LeaveOneOut(Config):
    """Each user's last interaction is for testing, the one before it for validation.

    A user with two interactions has no validation item: the test is what is reported, and training needs the other
    one. A user with one is dropped.

    Attributes:
        order: "time", or "random" (which is also what happens where there are no timestamps, and is then noted).
        seed: of a random order; None takes the experiment's first seed.
    """

    kind: Literal["leave-one-out"] = "leave-one-out"
    order: Order = "time"
    seed: int | None = Field(None, ge=0, lt=2**63)


class Ratio(Config):
    """A share of each user's interactions, the last ones, is for testing, and a share before them for validation.

    Shares are rounded to whole interactions, halves up. Every user keeps at least one interaction for training; where
    there are too few for all three parts, validation goes first.

    Attributes:
        valid, test: shares of a user's interactions.
        order, seed: as in leave-one-out.
    """

    kind: Literal["ratio"] = "ratio"
    valid: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    order: Order = "time"
    seed: int | None = Field(None, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Ratio:
        if self.valid + self.test >= 1:
            raise ValueError("valid and test must add up to less than 1; lower one of them")
        return self


class GlobalTime(Config):
    """Interactions before one time are for training, from then to a second time for validation, afterwards for testing.

    Attributes:
        valid_from, test_from: the two times: both below 1 are quantiles of all timestamps, otherwise they are
            timestamps, in the data's own unit.
    """

    kind: Literal["global-time"] = "global-time"
    valid_from: float = Field(0.8, gt=0)
    test_from: float = Field(0.9, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> GlobalTime:
        if not self.valid_from <= self.test_from:
            raise ValueError("valid_from must not be after test_from; exchange them")
        if self.valid_from < 1 <= self.test_from:
            raise ValueError("give two quantiles below 1, or two timestamps")
        return self


class Given(Config):
    """A published split, as files.

    Attributes:
        train, valid, test: file names, relative to the data's path. The defaults are LightGCN's.
        columns: what the held-out files call their columns, where that differs from the training file.
        valid_share: without a validation file, this share of each user's training interactions is drawn at random for
            validation, and rounded as `Ratio` does.
        refit: whether what was chosen on a drawn validation part (settings, epochs) is then fitted on the whole
            training file, as published results were, before it is tested. A validation file is never trained on.
        seed: of that draw; None takes the experiment's first seed.
    """

    kind: Literal["given"] = "given"
    train: str = "train.txt"
    valid: str | None = None
    test: str = "test.txt"
    columns: ColumnsConfig = ColumnsConfig()
    valid_share: float = Field(0.1, ge=0, lt=1)
    refit: bool = True
    seed: int | None = Field(None, ge=0, lt=2**63)


SplitConfig = LeaveOneOut | Ratio | GlobalTime | Given

SPLITS: dict[str, type[LeaveOneOut] | type[Ratio] | type[GlobalTime] | type[Given]] = {
    "leave-one-out": LeaveOneOut,
    "ratio": Ratio,
    "global-time": GlobalTime,
    "given": Given,
}


def split(interactions: Interactions, config: LeaveOneOut | Ratio | GlobalTime, streams: Streams) -> Split:
    """Split interactions that no pair occurs twice in. Each part keeps file order.

    Random choices are a function of the seed and of the original user and item ids, not of any order.

    Raises:
        DataError: if fewer than two users have training interactions, if there is nothing to test on, or if global time
            is asked of data without timestamps.
    """
    match config:
        case LeaveOneOut():
            return _leave_one_out(interactions, config, streams)
        case Ratio():
            return _ratio(interactions, config, streams)
        case GlobalTime():
            return _global_time(interactions, config)


def split_shard(interactions: Interactions, config: LeaveOneOut | Ratio | GlobalTime, streams: Streams) -> Split:
    """The split of some of the users of a federation, over the vocabularies that they came with.

    Each user's parts are those that `split` would make of everyone. What it leaves out has no interaction here; there
    may be one user, and nothing to test on.
    """
    match config:
        case LeaveOneOut():
            interactions = interactions.take((interactions.user_degrees > 1)[interactions.user])
            part = _last_one(interactions, config, streams)[0]
        case Ratio():
            part = _last_shares(interactions, config, streams)[0]
        case GlobalTime():
            part = _by_time(interactions, config)[0]
    train, valid, test = (interactions.take(part == which) for which in (TRAIN, VALID, TEST))
    return Split(train, valid, test)


def split_given(parts: Sequence[Interactions], config: Given, streams: Streams) -> Split:
    """The split of files, with held-out pairs that occurred earlier left out.

    Args:
        parts: train and test, or train, valid and test, over vocabularies that they share; each without repeated pairs.
        config: of which `valid_share` and `refit` are used where there is no validation part.
        streams: for that share.

    Returns:
        A split in which no pair is in two parts: one that occurs in train is dropped from valid and test, one that
        occurs in valid is dropped from test.

    Raises:
        DataError: if fewer than two users have training interactions, or if there is nothing to test on.
    """
    train, test = parts[0], parts[-1]
    whole = None
    notes = ["the split is given by files"]
    if len(parts) == 3:
        valid = _without(parts[1], [train], "valid", notes)
        test = _without(test, [train, valid], "test", notes)
    else:
        test = _without(test, [train], "test", notes)
        whole = train if config.refit and config.valid_share > 0 else None
        degree = train.user_degrees[train.user]
        from_end, _ = _from_end(train, "random", streams)
        held_out = from_end < _rounded_share(degree, config.valid_share, degree - 1)
        train, valid = train.take(~held_out), train.take(held_out)
        if config.valid_share > 0:
            learned = (
                "settings and epochs are chosen on it, and the model that is tested has learnt from the whole file"
                if config.refit
                else "models learn from the rest, where published results had the whole file to learn from"
            )
            notes.append(f"valid is a random share of {config.valid_share:g} of each user's training file; {learned}")
    return _checked(Split(train, valid, test, tuple(notes), whole))


def _leave_one_out(interactions: Interactions, config: LeaveOneOut, streams: Streams) -> Split:
    notes = []
    lonely = interactions.user_degrees == 1
    if lonely.any():
        notes.append(f"{int(lonely.sum())} users with a single interaction are dropped: there is nothing to train on")
        (interactions,) = drop_unused([interactions.take(~lonely[interactions.user])])
    pairs = int((interactions.user_degrees == 2).sum())
    if pairs:
        notes.append(f"{pairs} users with two interactions have one for training, one for testing, none for validation")
    part, how = _last_one(interactions, config, streams)
    return _parts(interactions, part, [f"test is each user's last interaction, valid the one before it; {how}", *notes])


def _last_one(interactions: Interactions, config: LeaveOneOut, streams: Streams) -> tuple[IntArray, str]:
    """The part of each interaction, and a note on their order."""
    degree = interactions.user_degrees[interactions.user]
    from_end, how = _from_end(interactions, config.order, streams)
    part = np.full(len(interactions), TRAIN)
    part[from_end == 0] = TEST
    part[(from_end == 1) & (degree >= 3)] = VALID
    return part, how


def _ratio(interactions: Interactions, config: Ratio, streams: Streams) -> Split:
    part, how = _last_shares(interactions, config, streams)
    note = f"test is the last {config.test:g} of each user's interactions, valid the {config.valid:g} before; {how}"
    return _parts(interactions, part, [note])


def _last_shares(interactions: Interactions, config: Ratio, streams: Streams) -> tuple[IntArray, str]:
    """The part of each interaction, and a note on their order."""
    degree = interactions.user_degrees[interactions.user]
    from_end, how = _from_end(interactions, config.order, streams)
    n_test = _rounded_share(degree, config.test, degree - 1)
    n_valid = _rounded_share(degree, config.valid, degree - 1 - n_test)
    part = np.full(len(interactions), TRAIN)
    part[from_end < n_test + n_valid] = VALID
    part[from_end < n_test] = TEST
    return part, how


def _global_time(interactions: Interactions, config: GlobalTime) -> Split:
    part, cuts = _by_time(interactions, config)
    return _parts(interactions, part, [f"valid begins at time {cuts[0]:.15g}, test at {cuts[1]:.15g}"])


def _by_time(interactions: Interactions, config: GlobalTime) -> tuple[IntArray, FloatArray]:
    """The part of each interaction, and the two times."""
    if interactions.time is None:
        raise DataError(
            "split = { kind = 'global-time' } needs timestamps and the data has none; name their column with "
            "columns = { time = '...' }, or split by 'ratio'"
        )
    cuts = np.array([config.valid_from, config.test_from])
    if config.test_from < 1:
        cuts = np.quantile(interactions.time, cuts, method="higher")
    part = np.searchsorted(cuts, interactions.time, side="right")  # an interaction at a cut belongs to the later part
    return part, cuts


def _from_end(interactions: Interactions, order: Order, streams: Streams) -> tuple[IntArray, str]:
    """Position of each interaction from the end of its user's, [n] with 0 the last, and a note on their order."""
    times = interactions.time if order == "time" else None
    keys = _random_words(interactions, streams) if times is None else times
    rows: IntArray = np.lexsort((keys, interactions.user))  # stable: ties stay in file order
    user = interactions.user[rows]
    from_end = np.empty(len(rows), dtype=np.int64)
    from_end[rows] = np.cumsum(interactions.user_degrees)[user] - 1 - np.arange(len(rows))
    if times is None:
        return from_end, "in random order" + ("" if order == "random" else ", because there are no timestamps")
    ties = int(((np.diff(user) == 0) & (np.diff(times[rows]) == 0)).sum())
    return from_end, f"by time, {ties:,} ties by file order"


def _random_words(interactions: Interactions, streams: Streams) -> IntArray:
    """[n] random numbers, each a function of the seed and of the original ids of its user and item."""
    users = interactions.users.keys[torch.from_numpy(interactions.user)]
    items = interactions.items.keys[torch.from_numpy(interactions.item)]
    return np.asarray(streams.words("split", users, items).numpy(), dtype=np.int64)


def _rounded_share(degree: IntArray, share: float, most: IntArray) -> IntArray:
    rounded = np.floor(degree * share + 0.5).astype(np.int64)
    return np.where(rounded < most, rounded, most)


def _without(part: Interactions, earlier: Sequence[Interactions], name: str, notes: list[str]) -> Interactions:
    """The part without the pairs that occur in earlier parts, which are counted in the notes."""
    seen = np.isin(_pairs(part), np.concatenate([_pairs(other) for other in earlier]))
    if seen.any():
        notes.append(f"{int(seen.sum()):,} pairs of {name} occurred in an earlier part and are dropped from {name}")
    return part.take(~seen)


def _pairs(part: Interactions) -> IntArray:
    return part.user * part.n_items + part.item


def _parts(interactions: Interactions, part: IntArray, notes: Sequence[str]) -> Split:
    train, valid, test = (interactions.take(part == which) for which in (TRAIN, VALID, TEST))
    return _checked(Split(train, valid, test, tuple(notes)))


def _checked(parts: Split) -> Split:
    """The split, with notes on cold users and items, if there is something to learn from and something to test."""
    training_users = np.count_nonzero(parts.train.user_degrees)
    if training_users < 2:
        raise DataError(
            f"the split leaves {training_users} of the at least two users that training needs; "
            "split otherwise, or give more data"
        )
    if not len(parts.test):
        raise DataError("the split leaves nothing to test on; split otherwise, or give more data")
    notes = []
    for name, part, train in (
        ("valid", parts.valid, parts.train),
        ("test", parts.test, parts.train if parts.whole is None else parts.whole),
    ):
        cold_user = train.user_degrees[part.user] == 0
        cold_item = train.item_degrees[part.item] == 0
        if (cold_user | cold_item).any():
            notes.append(
                f"{_distinct(part.user[cold_user])} users and {_distinct(part.item[cold_item])} items of {name} do not "
                f"occur in train, in {int((cold_user | cold_item).sum()):,} of its {len(part):,} interactions"
            )
    return replace(parts, notes=(*parts.notes, *notes))


def _distinct(codes: IntArray) -> str:
    return f"{len(np.unique(codes)):,}"
