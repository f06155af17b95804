"""What an experiment says about its evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedrec.components import Config
from fedrec.errors import ConfigError, did_you_mean
from fedrec.evaluation.accuracy import ACCURACY
from fedrec.evaluation.metrics import SAMPLED, MetricName

Candidates = Literal["all", "sampled-99"]


class EvaluationConfig(Config):
    """What is measured.

    Attributes:
        k: lengths of the list.
        candidates: what held-out items are ranked among: "all", every item that the user is not known to have; or
            "sampled-99", 99 of them drawn at random, for comparison with papers that do so; or both, as a list. A
            metric over sampled candidates has that in its name, "ndcg@10-sampled-99".
        metric: accuracy metric and length, "name@k": what validation selects by and what a report shows first.
        groups: user columns to compare groups by; "auto" is gender, age (in bands) where known, and activity (tercile
            of the number of training interactions).
        categories: item column of intra-list diversity and calibration, values joined by "|"; "auto" is `genres` where
            there is one.
        item_groups: item columns whose exposure is compared, several values joined by "|"; "auto" is popularity
            (tercile of the number of training interactions) and, where known, author. A column's name with "-size"
            behind it, "author_id-size", is its small, middle and large values by their training interactions; of an
            author that is part of "auto".
        embedding_dim: dimensions of the item factors that embedding diversity compares; 0 leaves it out.
        bootstrap: resamples of an interval.
    """

    k: tuple[Annotated[int, Field(ge=1)], ...] = (5, 10, 20)
    candidates: tuple[Candidates, ...] = ("all",)
    metric: str = Field("ndcg@10", validate_default=True)  # it must fit k and candidates
    groups: tuple[str, ...] | Literal["auto"] = "auto"
    categories: str | None = "auto"
    item_groups: tuple[str, ...] | Literal["auto"] = "auto"
    embedding_dim: int = Field(32, ge=0)
    bootstrap: int = Field(1000, ge=100)

    @field_validator("k")
    @classmethod
    def _distinct(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if not k or len(set(k)) < len(k):
            raise ValueError("give at least one length of the list, and each once")
        return k

    @field_validator("candidates", mode="before")
    @classmethod
    def _one_or_several(cls, candidates: object) -> object:
        return (candidates,) if isinstance(candidates, str) else candidates

    @field_validator("candidates")
    @classmethod
    def _some_candidates(cls, candidates: tuple[Candidates, ...]) -> tuple[Candidates, ...]:
        if not candidates or len(set(candidates)) < len(candidates):
            raise ValueError("give 'all', 'sampled-99' or both, and each once")
        return candidates

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str, info: ValidationInfo) -> str:
        name = MetricName.of(metric)
        if name.metric not in ACCURACY:
            raise ValueError(f"unknown accuracy metric '{name.metric}'; {did_you_mean(name.metric, ACCURACY)}")
        lengths = info.data.get("k", ())
        if lengths and name.k not in lengths:
            raise ValueError(
                f"its k must be one of {', '.join(map(str, lengths))}, as in '{name.metric}@{lengths[-1]}'"
            )
        candidates = info.data.get("candidates", ())
        if name.summary or (candidates and name.candidates not in candidates):
            ending = "" if "all" in candidates else f"-{SAMPLED}"
            raise ValueError(f"not measured with candidates = {list(candidates)}; try '{name.metric}@{name.k}{ending}'")
        return metric

    def require_catalogue(self, n_items: int) -> None:
        """Raise a ConfigError if a list would be longer than the catalogue; worth asking before training."""
        if max(self.k) > n_items:
            raise ConfigError(f"evaluation.k: k = {max(self.k)} exceeds the catalogue of {n_items} items; lower it")
