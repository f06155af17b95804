"""PFedRec: a score function and item vectors of one's own (Zhang et al. 2023, "Dual Personalization ...", IJCAI).

There is no user vector: a user is a private score function on item vectors. Each round every participant starts from
the common item table, trains its score function and then the rows that it touches, keeps both, and sends how the rows
changed; the server averages. A user ranks with its own rows, and with the table it was sent where it has none.

Negatives are drawn outside training items only. The authors' code draws them outside validation and test items too,
which tells each user's own rows what is held out: `papers/zhang2023pfedrec` measures what that is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from fedrec.components import Config
from fedrec.federated.cohort import Cohort, State
from fedrec.federated.method import METHODS, Ask, Federation
from fedrec.federated.queries import PersonalTraining
from fedrec.federated.queries.personal_training import personal_scores
from fedrec.federated.server_optimizer import ServerOptimizerConfig, server_step
from fedrec.privacy import PlannedRelease
from fedrec.recommenders.recommender import Tensors
from fedrec.recommenders.trainer import Stopping
from fedrec.spaces import Choice, Integers, LogUniform, Space


class PFedRecConfig(Config):
    """Settings of `PFedRec`.

    Attributes:
        dim: d, the width of item vectors.
        rounds: the most rounds.
        epochs: local passes over a user's samples in a round.
        batch_size: samples of one local step.
        score_rate: learning rate of the score function.
        item_rate: learning rate of the item rows.
        negatives: sampled for each own item, once a round.
        initial_scale: standard deviation of item vectors before training.
        aggregate: False trains every device for itself, which sends nothing: the yardstick of what federation adds.
        clip: norm that a user's change is clipped to under a guarantee.
        server: the server's optimiser; SGD of rate 1 replaces the table by the users' mean.
        stopping: early stopping on validation.
    """

    dim: int = Field(32, ge=1)
    rounds: int = Field(100, ge=1)
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(256, ge=1)
    score_rate: float = Field(0.1, gt=0)
    item_rate: float = Field(10_000.0, gt=0)  # of a mean over a batch, averaged over users, most of whom lack the item
    negatives: int = Field(4, ge=1)
    initial_scale: float = Field(1.0, gt=0)
    aggregate: bool = True
    clip: float = Field(10.0, gt=0)
    server: ServerOptimizerConfig = ServerOptimizerConfig(kind="sgd", rate=1.0)
    stopping: Stopping = Stopping()

    space: ClassVar[Mapping[str, Space]] = {
        "dim": Choice((16, 32, 64)),
        "epochs": Integers(1, 5),
        "score_rate": LogUniform(0.01, 1),
        "item_rate": LogUniform(1, 30_000),
        "initial_scale": LogUniform(0.03, 1),
    }


@METHODS.register("pfedrec")
class PFedRec:
    """Private score functions, private item rows, and a common item table that they start from."""

    config_class: ClassVar[type[Config]] = PFedRecConfig

    def __init__(self, config: PFedRecConfig) -> None:
        self.config = config

    @property
    def rounds(self) -> int:
        """The most rounds it runs."""
        return self.config.rounds

    @property
    def stopping(self) -> Stopping:
        """Early stopping on validation."""
        return self.config.stopping

    def releases(self) -> tuple[PlannedRelease, ...]:
        """One sum of item-table changes a round."""
        return (PlannedRelease(query="personal-training", draws=self.config.rounds, clip=self.config.clip),)

    def start(self, federation: Federation) -> Tensors:
        """A random item table, which is also what the devices were sent last."""
        items = federation.random_items(self.config.dim)
        items *= self.config.initial_scale
        return {"items": items, "sent": items.clone()}

    def round(self, state: Tensors, ask: Ask) -> Tensors:
        """The clients train locally; the table becomes their mean."""
        change = ask(self.training(state["items"])).sums["items"]
        if not self.config.aggregate:
            return state
        return server_step(self.config.server, state, "items", gradient=-change / ask.expected) | {
            "sent": state["items"]
        }

    def memory(self, state: Tensors) -> PersonalTraining:
        """Local training, which keeps score function and item rows on the device."""
        return self.training(state["sent"])

    def score(self, state: Tensors, cohort: Cohort, private: State) -> Tensor:
        """w_u · T_i + b_u for every item."""
        return personal_scores(private, state["sent"])

    def training(self, items: Tensor) -> PersonalTraining:
        """A round's local training from an item table."""
        config = self.config
        return PersonalTraining(
            items=items,
            epochs=config.epochs,
            batch_size=config.batch_size,
            score_rate=config.score_rate,
            item_rate=config.item_rate,
            negatives=config.negatives,
            alone=not config.aggregate,
        )
