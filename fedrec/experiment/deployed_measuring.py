"""The test of a model whose users are on nodes: what is asked, under which masks, and what of it is reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fedrec.data import Public, read_catalogue
from fedrec.errors import ConfigError, PrivacyError, RunError
from fedrec.evaluation import MIN_GROUP, MetricRow, group_labels, resampled_means
from fedrec.experiment.config import ExperimentConfig
from fedrec.experiment.resampled import COUNTED
from fedrec.experiment.store import write_json
from fedrec.federated import Engine, FederatedRecommender, measure, small_groups
from fedrec.federated.queries import Evaluate
from fedrec.flower import FlowerEngine, MaskedEngine, Panel, Roll, fingerprint
from fedrec.privacy import PrivacyConfig, Randomness
from fedrec.privacy.secure_round import sparse_enough

_SUMMED = (
    f"metric values, also by group of {MIN_GROUP} users or more and by resample; by item how many have it, hold it "
    "out, are shown it, and rightly; how many users have how many items, and how many are in each group"
)

_UNPAID = {
    False: "Not paid for: the test after the last round. Each node sends plain sums over its users: "
    f"{_SUMMED}. Those of few users say what single ones hold.",
    True: "Not paid for: the test after the last round. The server learns sums over all users, without noise and of no "
    f"single node: {_SUMMED}. What only one user or one node adds to, such as an item that nobody else has, is that "
    "one's; what few add to tells the more of each the fewer they are.",
}
"""What the guarantee says of the test, by whether it is under masks."""

_RESAMPLED: Mapping[Randomness, str] = {
    "seeded": "Resamples are drawn from the seed: whoever has it and the users' keys can solve them for single users' "
    "values.",
    "os": "Resamples are drawn from secrets that the nodes keep.",
}


def _masked(privacy: PrivacyConfig | None) -> bool:
    """Whether sums are told under masks alone: wherever the server is not trusted to see a single answer."""
    return privacy is not None and privacy.trust != "central"


def require_nodes(privacy: PrivacyConfig | None, nodes: int) -> None:
    """Refuse secure sums of too few nodes before anything is trained.

    Raises:
        PrivacyError: naming the numbers.
    """
    if privacy is None or not _masked(privacy):
        return
    try:
        sparse_enough(nodes, privacy.answering)
    except PrivacyError:
        raise PrivacyError(
            f"privacy.trust = '{privacy.trust}', privacy.answering = {privacy.answering}: the sums of a test travel "
            f"under masks, and {nodes} nodes are too few for that; take more, or a larger privacy.answering"
        ) from None


def asked_in_test(engine: FlowerEngine, privacy: PrivacyConfig | None, panel: Panel) -> Engine:
    """The engine that the test asks: the nodes, or under masks where an arm's trust is not the server's."""
    return MaskedEngine(engine, privacy.answering, panel) if privacy is not None and _masked(privacy) else engine


def panel_of(path: Path) -> Panel:
    """The nodes of a run's masked tests, which a file keeps: a run that is resumed goes on with them.

    Args:
        path: of the file; it is written before the first such test is opened.

    Raises:
        RunError: if it cannot be read.
    """

    def fix(nodes: tuple[int, ...]) -> None:
        write_json(path, {"nodes": list(nodes)})

    if not path.exists():
        return Panel(fix=fix)
    try:
        return Panel(tuple(map(int, json.loads(path.read_text())["nodes"])), fix)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path}: cannot be read ({error}); restore the file, or start a new run") from None


def unpaid_test(privacy: PrivacyConfig, randomness: Randomness) -> str:
    """What a guarantee says of the test, whose sums have no noise."""
    return f"{_UNPAID[_masked(privacy)]} {_RESAMPLED[randomness]} The promise is about the model."


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What is public of items and users, as far as the server was given it.

    Attributes:
        n_items: size of the catalogue.
        items: attributes of the items in code order; no columns if nothing is known.
        labels: of the groups of users, by attribute.
    """

    n_items: int
    items: pd.DataFrame
    labels: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, config: ExperimentConfig, roll: Roll) -> Catalogue:
        """That of `engine.catalogue`, and of the file beside it that says which values users' attributes take.

        Raises:
            ConfigError: if the nodes have another catalogue.
            DataError: if a file cannot be read.
        """
        if config.engine.catalogue is None:
            return cls(roll.n_items, pd.DataFrame(), {})
        path = Path(config.engine.catalogue)
        items, attributes = read_catalogue(path)
        theirs = next(iter(roll.nodes.values())).catalogue
        if fingerprint(items) != theirs:
            raise ConfigError(
                f"engine.catalogue = '{path}': {len(items)} items, and not those of the nodes' catalogue; give the "
                "server the file that the nodes have"
            )
        return cls(roll.n_items, attributes, group_labels(Public.beside(path).columns))


def measure_deployed(
    recommender: FederatedRecommender,
    engine: Engine,
    config: ExperimentConfig,
    seed: int,
    public: Catalogue,
    *,
    validated: bool,
) -> tuple[Sequence[tuple[str, str, str, float]], pd.DataFrame]:
    """Rows (split, metric, group, value) from sums over what the users' devices measure, and their resampled means.

    Of small groups nothing is asked but how many users they have, and nothing is written (`unreported`): the fewer a
    sum is over the more it says of each, and a resample in which one of them counts says all of that one.

    Args:
        recommender: the fitted arm.
        engine: that is asked.
        config: of the experiment.
        seed: of the fit.
        public: what is known of items and users.
        validated: whether the nodes have a validation part as well.
    """
    rows = []
    metric, after = config.evaluation.metric, recommender.method.rounds + 1  # later than every round
    if validated:
        query = Evaluate.of(recommender.method, recommender.model(), "valid", [metric], seed, everyone=True)
        users, total = engine.sum(query, round=after).sums["metrics"][0].tolist()
        rows += [("valid", metric, "", total / users)] if users else []
    found = measure(
        engine,
        recommender.method,
        recommender.model(),
        public.n_items,
        public.items,
        public.labels,
        config.evaluation,
        seed=seed,
        resampling=config.seeds[0],  # arms and seeds are paired by it
        round=after + 1,
        small=False,
    )
    hidden = unreported(found.rows, found.layout.groups)
    rows += [("test", row.metric, row.group, row.value) for row in found.rows if row.group not in hidden]
    means = resampled_means(found.resamples, found.layout)
    kept = {name: mean.numpy() for name, mean in means.items() if name.partition("/")[2] not in hidden}
    return rows, pd.DataFrame({COUNTED: found.resamples[:, 0].numpy(), **kept})


def unreported(rows: Sequence[MetricRow], groups: Mapping[str, Sequence[str]]) -> set[str]:
    """The groups of users, "gender=F", of which nothing is reported: small ones, those without a training item too.

    Args:
        rows: of a test.
        groups: groupings of users, name -> labels.
    """
    sizes = {row.group: row.value for row in rows if row.metric == "users"}
    return {group for group, users in sizes.items() if group and users < MIN_GROUP} | small_groups(sizes, groups)
