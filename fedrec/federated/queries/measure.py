"""Measure: everything that `fedrec.evaluation.evaluate` finds of a model, as sums over users.

The lists of a user are made and counted on the device, with what the server broadcasts of the catalogue: how popular
items are, and of which categories. `fedrec.evaluation.sums` says what the sums are and what becomes of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from fedrec.errors import DataError, FedrecError
from fedrec.evaluation import HeldOut, Layout, poisson_weights, secret_weights
from fedrec.evaluation.accuracy import ndcg_gains
from fedrec.evaluation.config import Candidates
from fedrec.evaluation.csr import Csr, rows_of, union_of
from fedrec.evaluation.diversity import list_weights, mean_over_list
from fedrec.evaluation.measures import Catalogue, per_list
from fedrec.evaluation.protocol import accuracy_of
from fedrec.evaluation.sums import PER_LENGTH
from fedrec.evaluation.topk import Ranking
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.contribution import Contribution, Rows
from fedrec.federated.method import FederatedMethod
from fedrec.federated.queries.evaluate import method_of, ranking_of, scoring_memory, settings_of, without_held_out
from fedrec.federated.queries.membership import groups_of, places_of
from fedrec.federated.query import Query, Setting, allow
from fedrec.recommenders.recommender import Tensors
from fedrec.streams import Streams

_STATE = "state/"  # before the names of the model's tensors in a broadcast
_INTERACTIONS = 64  # of a typical user, among whom the working memory of a resample is divided


@allow("measure")
@dataclass(frozen=True, eq=False)
class Measure(Query):
    """The sums of `Layout.tables`, over all users of those with held-out items.

    Attributes:
        method: what scores on the device.
        state: the server's state that scoring reads, by name.
        popularity: [n_items, 1] float64 number of training interactions of each item.
        categories: [n_items, width] float64 category weights; None if items have none.
        part: the held-out part, "test".
        layout: what is summed.
        activity: bounds of the terciles of activity, `fairness.tercile_bounds`.
        seed: of the run; it orders ties and draws sampled candidates.
        resampling: seed of the bootstrap's weights, the same for every run that is to be compared.
        unasked: numbers of the groups, through all groupings, that nothing is summed of: a few users' sums are theirs.
        secret: of the node, which draws the weights from it instead; no message holds it.
    """

    method: FederatedMethod
    state: Tensors
    popularity: Tensor
    categories: Tensor | None
    part: str
    layout: Layout
    activity: tuple[int, int]
    seed: int
    resampling: int
    unasked: tuple[int, ...] = ()
    secret: bytes | None = None
    everyone = True

    @property
    def held_out(self) -> str:  # type: ignore[override]
        """The part that it is handed."""
        return self.part

    @property
    def private(self) -> tuple[str, ...]:  # type: ignore[override]
        """What scoring reads of the devices' memory."""
        return scoring_memory(self.method, self.state)

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """As the layout has them."""
        return self.layout.tables(len(self.popularity))

    @property
    def bounds(self) -> Mapping[str, tuple[float, ...]]:
        """As the layout has them."""
        return self.layout.bounds(self.popularity[:, 0])

    @property
    def broadcast(self) -> Mapping[str, Tensor]:
        """The model, and what is public of the items."""
        known = {"popularity": self.popularity} | ({} if self.categories is None else {"categories": self.categories})
        return {f"{_STATE}{name}": tensor for name, tensor in self.state.items()} | known

    @property
    def dtype(self) -> torch.dtype:
        """Metrics are double."""
        return torch.float64

    @property
    def bytes_per_interaction(self) -> int:
        """Resamples of a user take more memory than anything else: nearly two thirds of them hold the user."""
        rows, width = self.tables.get("resamples", (1, 1))
        return max(super().bytes_per_interaction, 8 * rows * width // _INTERACTIONS)

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Everything else, as plain words and numbers.

        Raises:
            ConfigError: if the method has no kind, by which a node could know it.
        """
        return {
            **settings_of(self.method),
            "part": self.part,
            "k": json.dumps(self.layout.ks),
            "candidates": json.dumps(self.layout.candidates),
            "groups": json.dumps(dict(self.layout.groups)),
            "headline": self.layout.headline,
            "replicates": self.layout.replicates,
            "activity": json.dumps(self.activity),
            "seed": self.seed,
            "resampling": self.resampling,
            "unasked": json.dumps(self.unasked),
        }

    @classmethod
    def build(cls, broadcast: Mapping[str, Tensor], settings: Mapping[str, Setting]) -> Measure:
        """The query of a message.

        Raises:
            DataError: if the method is not one that this node knows, or the settings are not its own.
        """
        try:
            groups = json.loads(str(settings["groups"]))
            layout = Layout(
                tuple(int(k) for k in json.loads(str(settings["k"]))),
                cast(tuple[Candidates, ...], tuple(map(str, json.loads(str(settings["candidates"]))))),
                "categories" in broadcast,
                {str(name): tuple(map(str, labels)) for name, labels in groups.items()},
                str(settings["headline"]),
                int(settings["replicates"]),
            )
            first, second = (int(bound) for bound in json.loads(str(settings["activity"])))
            return cls(
                method_of(settings),
                {name.removeprefix(_STATE): tensor for name, tensor in broadcast.items() if name.startswith(_STATE)},
                broadcast["popularity"],
                broadcast.get("categories"),
                str(settings["part"]),
                layout,
                (first, second),
                int(settings["seed"]),
                int(settings["resampling"]),
                tuple(int(number) for number in json.loads(str(settings["unasked"]))),
            )
        except (KeyError, ValueError, TypeError, AttributeError, FedrecError) as error:
            raise DataError(f"query 'measure' does not fit its definition: {error}") from error

    def with_secret(self, secret: bytes) -> Measure:
        """Resamples by weights that nobody else knows."""
        return replace(self, secret=secret)

    def initial(self, cohort: Cohort, draw: Streams) -> State:
        """That of the method's own memory."""
        memory = self.method.memory(self.state)
        assert memory is not None  # otherwise nothing is private, and nobody asks
        return memory.initial(without_held_out(cohort), draw)

    def contribute(self, cohort: Cohort, state: State, draw: Streams) -> tuple[Mapping[str, Contribution], State]:
        """Each user's metrics, lists and resamples. Nothing is remembered."""
        ranking, plain, device = ranking_of(cohort, self.part, self.seed), without_held_out(cohort), cohort.keys.device
        users, warm = ranking.users, ranking.warm

        def score(some: Tensor) -> Tensor:
            here = some.to(device)
            return self.method.score(self.state, plain.take(here), state.take(here))

        rows = {
            name: Rows(users[:0], users[:0], torch.zeros(0, width, dtype=torch.float64))
            for name, (_, width) in self.tables.items()
        }
        if len(users):
            ranked = ranking.rankings(score, users, max(self.layout.ks), self.layout.candidates)
            rows["segments"] = self._segments(ranking, ranked)
            if warm.any():
                rows |= self._of_warm(cohort, ranking, ranked)
        return {name: _on(device, part) for name, part in rows.items()}, State()

    def _of_warm(self, cohort: Cohort, ranking: HeldOut, ranked: Mapping[Candidates, Ranking]) -> dict[str, Rows]:
        """All that overall values are of."""
        layout, warm, users, rows = self.layout, ranking.warm, ranking.warm_users, {}
        counts = ranking.degrees(ranking.users)
        values = accuracy_of(ranked, ranking.relevant, counts, warm, layout.ks)
        if layout.lists:
            lists = ranked["all"].lists
            items, hits = lists.items[warm], lists.hits(ranking.relevant)[warm]
            catalogue = self._catalogue(ranking)
            values |= per_list(items, hits, users, catalogue, layout.ks)
            rows["items"] = self._items(items, hits, users, counts[warm], ranking, catalogue)
            history = catalogue.mean_popularity(users)
            popular = [history, *(mean_over_list(items[:, :k], catalogue.popularity.double()) for k in layout.ks)]
            rows["lists"] = Rows(users, torch.zeros_like(users), torch.stack(popular, dim=1))
        per_user = torch.stack([values[name] for name in layout.per_user], dim=1)
        groups = self._groups(cohort, users)
        rows["users"] = self._users(users, counts[warm], per_user, groups)
        if layout.replicates:
            rows["resamples"] = self._resamples(users, ranking.user_keys[users], per_user, groups)
        return rows

    def _catalogue(self, ranking: HeldOut) -> Catalogue:
        popularity = self.popularity[:, 0].round().long().cpu()  # masked sums are whole up to their resolution
        categories = None if self.categories is None else self.categories.cpu()
        return Catalogue(popularity, ranking.known[0], ranking.known, categories, None, ())

    def _users(self, users: Tensor, counts: Tensor, per_user: Tensor, groups: Tensor) -> Rows:
        """Row 0, and the row of each group that a user is in."""
        squares = per_user[:, : len(self.layout.accuracy)].square()
        value = torch.cat([torch.ones_like(per_user[:, :1]), counts.double().unsqueeze(1), per_user, squares], dim=1)
        member, row = places_of(groups)
        return Rows.coalesce(users[member], row, value[member], 1 + self.layout.n_groups)

    def _groups(self, cohort: Cohort, users: Tensor) -> Tensor:
        """[users, groupings] the group of each user; negative where it is unknown, or nothing is asked of it."""
        groups = groups_of(cohort, users, self.layout.groups, self.activity)
        return groups.where(~torch.isin(groups, torch.tensor(self.unasked, dtype=torch.int64)), -1)

    def _items(
        self, items: Tensor, hits: Tensor, users: Tensor, counts: Tensor, ranking: HeldOut, catalogue: Catalogue
    ) -> Rows:
        """What `ItemCounts` counts, one row for each item that a user has, holds out or is shown."""
        ks, n_items = self.layout.ks, len(catalogue.popularity)
        width = 2 + PER_LENGTH * len(ks)
        indptr, had = union_of(ranking.known, users, n_items)
        has = torch.repeat_interleave(torch.arange(len(users)), indptr.diff())
        holds, held = rows_of(ranking.relevant, users)
        sees, rank = (items >= 0).nonzero(as_tuple=True)
        seen = torch.zeros(len(sees), width, dtype=torch.float64)
        for place, k in enumerate(ks):
            within, column = rank < k, 2 + PER_LENGTH * place
            weight = list_weights(items[:, :k])
            seen[within, column] = 1.0
            seen[within, column + 1] = hits[sees, rank][within].double()
            seen[within, column + 2] = weight
            seen[within, column + 3] = weight.square()
            seen[within, column + 4] = ndcg_gains(hits[:, :k], counts)[sees[within], rank[within]]
        values = torch.zeros(len(had) + len(held), width, dtype=torch.float64)
        values[: len(had), 0] = 1.0
        values[len(had) :, 1] = 1.0
        owner, index = torch.cat([has, holds, sees]), torch.cat([had, held, items[sees, rank]])
        return Rows.coalesce(users[owner], index, torch.cat([values, seen]), n_items)

    def _segments(self, ranking: HeldOut, ranked: Mapping[Candidates, Ranking]) -> Rows:
        """Cold users in row 0; in row 1 warm users, of whom items count that nobody trained on."""
        users, counts = ranking.users, ranking.degrees(ranking.users)
        indptr, held = ranking.relevant
        is_cold = self.popularity[:, 0].round().cpu()[held] == 0
        before = torch.cat([torch.zeros(1, dtype=torch.int64), is_cold.long().cumsum(0)])
        cold: Csr = (before[indptr], held[is_cold])
        of_cold = cold[0].diff()[users]
        rows, width = self.tables["segments"]
        parts = [(users[:0], users[:0], torch.zeros(0, width, dtype=torch.float64))]
        for row, (relevant, count, members) in enumerate(
            ((ranking.relevant, counts, ~ranking.warm), (cold, of_cold, (of_cold > 0) & ranking.warm))
        ):
            if not members.any():
                continue
            found = accuracy_of(ranked, relevant, count, members, self.layout.ks, areas=row == 0)
            some = users[members]
            nothing = torch.zeros(len(some), dtype=torch.float64)
            columns = [torch.ones_like(nothing), count[members].double()]
            columns += [found.get(name, nothing) for name in self.layout.accuracy]
            parts.append((some, torch.full_like(some, row), torch.stack(columns, dim=1)))
        owner, index, value = (torch.cat(column) for column in zip(*parts, strict=True))
        return Rows.coalesce(owner, index, value, rows)

    def _resamples(self, users: Tensor, keys: Tensor, per_user: Tensor, groups: Tensor) -> Rows:
        """Each user's row as often as the user counts in a resample."""
        layout = self.layout
        own = torch.zeros(len(users), self.tables["resamples"][1], dtype=torch.float64)
        own[:, 0], own[:, 1 : 1 + per_user.shape[1]] = 1.0, per_user
        headline = per_user[:, layout.per_user.index(layout.headline)]
        member, column = (groups >= 0).nonzero(as_tuple=True)
        place = 1 + per_user.shape[1] + 2 * groups[member, column]
        own[member, place], own[member, place + 1] = 1.0, headline[member]
        if self.secret is None:
            times = poisson_weights(Streams(self.resampling), keys, layout.replicates)
        else:
            times = secret_weights(self.secret, keys, layout.replicates)
        owner, resample = times.nonzero(as_tuple=True)
        return Rows(users[owner], resample, own[owner] * times[owner, resample].unsqueeze(1))


def _on(device: torch.device, rows: Rows) -> Rows:
    return Rows(rows.owner.to(device), rows.index.to(device), rows.value.to(device))
