"""The table of metrics: what each one is, where it lies, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedrec.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Metric:
    """One metric, as it is listed and as a report reads it.

    Attributes:
        name: as it stands in results, before "@k" or, for functions of a user-level metric, behind it.
        formula: with h_r the hit at rank r, H hits, T relevant items, x_i the lists that show item i, m_g group means.
        range: the values that it can take.
        orientation: "+" larger is better, "-" smaller is better, "·" descriptive.
        source: whose definition it is.
        level: "user": one value a user, averaged; "list": one value for all lists together; "group": a function of a
            accuracy metric's values, named e.g. "ndcg@10-gap"; "provider": of groups of items.
    """

    name: str
    formula: str
    range: str
    orientation: Literal["+", "-", "·"]
    source: str
    level: Literal["user", "list", "group", "provider"]


@dataclass(frozen=True)
class MetricRow:
    """One line of results.

    Attributes:
        metric: e.g. "ndcg@10", "coverage@10", "ndcg@10-gap", "users".
        group: "" for everyone, "gender=F" for one group, "gender" for what lies between its groups, "cold-users".
        value: a finite number.
    """

    metric: str
    group: str
    value: float


_ALL = (
    Metric("precision", "H / k", "[0, 1]", "+", "trec_eval P", "user"),
    Metric("recall", "H / T", "[0, 1]", "+", "trec_eval recall", "user"),
    Metric("hit-rate", "1[H > 0]", "0 or 1", "+", "trec_eval success", "user"),
    Metric("f1", "2H / (k + T)", "[0, 1]", "+", "PyG LinkPredF1", "user"),
    Metric(
        "ndcg",
        "Σ_r h_r / log2(r+1), over that of an ideal list of min(k, T)",
        "[0, 1]",
        "+",
        "Järvelin and Kekäläinen 2002; trec_eval ndcg_cut",
        "user",
    ),
    Metric("mrr", "max_r h_r / r", "[0, 1]", "+", "trec_eval recip_rank", "user"),
    Metric("map", "Σ_r h_r (Σ_{s≤r} h_s / r) / min(k, T)", "[0, 1]", "+", "PyG LinkPredMAP", "user"),
    Metric(
        "auc",
        "Σ (1[s_i > s_j] + ½ 1[s_i = s_j]) / (T N), i relevant, j the N other candidates",
        "[0, 1], ½ = chance",
        "+",
        "Mann and Whitney 1947; scikit-learn roc_auc_score",
        "user",
    ),
    Metric("rmse", "√(mean (r̂ − r)²) over test interactions", "[0, ∞)", "-", "scikit-learn", "list"),
    Metric("mae", "mean |r̂ − r| over test interactions", "[0, ∞)", "-", "scikit-learn", "list"),
    Metric(
        "novelty",
        "mean over the list of −log2(share of training interactions)",
        "[0, log2 interactions] bits",
        "+",
        "Vargas and Castells 2011, free discovery",
        "user",
    ),
    Metric(
        "intra-list-diversity",
        "1 − mean over pairs of cos(categories); 0 without a pair",
        "[0, 1]",
        "+",
        "Smyth and McClave 2001; Ziegler et al. 2005",
        "user",
    ),
    Metric(
        "embedding-diversity",
        "1 − mean over pairs of cos(item factors of the training matrix); 0 without a pair",
        "[0, 2]",
        "+",
        "Smyth and McClave 2001; factors by truncated SVD",
        "user",
    ),
    Metric(
        "calibration-error",
        "Σ_g p_g ln(p_g / (.99 q_g + .01 p_g)), p and q the category shares of history and list",
        "[0, ln 100] nats",
        "-",
        "Steck 2018",
        "user",
    ),
    Metric(
        "long-tail-share",
        "share of the list outside the head, the fewest items with 80% of training interactions",
        "[0, 1]",
        "+",
        "Abdollahpouri et al. 2017; Elliot APLT",
        "user",
    ),
    Metric(
        "serendipity",
        "relevant items of the list that are not among the user's k most popular candidates / k",
        "[0, 1]",
        "+",
        "Murakami et al. 2008; Ge et al. 2010",
        "user",
    ),
    Metric("coverage", "|{i : x_i > 0}| / items", "[0, 1]", "+", "PyG LinkPredCoverage", "list"),
    Metric("gini", "Σ_j (2j − n − 1) x_(j) / (n Σ x), 0 = equal", "[0, 1)", "-", "RecBole GiniIndex", "list"),
    Metric(
        "entropy",
        "−Σ_i p_i log2 p_i, p = x / Σ x",
        "[0, log2 items] bits",
        "+",
        "Shannon 1948; whole catalogue",
        "list",
    ),
    Metric(
        "personalization",
        "1 − mean over pairs of users of |A ∩ B| / √(|A| |B|)",
        "[0, 1]",
        "+",
        "PyG LinkPredPersonalization",
        "list",
    ),
    Metric(
        "popularity-lift",
        "mean popularity of lists / that of their users' histories",
        "[0, ∞), 1 = neither",
        "·",
        "Abdollahpouri et al. 2019, plus 1",
        "list",
    ),
    Metric("gap", "max_g m_g − min_g m_g, groups of 20 users or more", "[0, 1]", "-", "Ekstrand et al. 2018", "group"),
    Metric("worst-group", "min_g m_g, groups of 20 users or more", "[0, 1]", "+", "Rawls 1971", "group"),
    Metric("ratio", "min_g m_g / max_g m_g, groups of 20 users or more", "[0, 1]", "+", "four-fifths rule", "group"),
    Metric(
        "coefficient-of-variation", "deviation over users / mean", "[0, √(users − 1)]", "-", "Pearson 1896", "group"
    ),
    Metric("worst-decile", "mean of the ⌈users/10⌉ smallest values", "[0, 1]", "+", "Li et al. 2020 (q-FFL)", "group"),
    Metric(
        "exposure-share", "x_g / Σ x, places of lists that show group g of items", "[0, 1]", "·", "share", "provider"
    ),
    Metric("catalogue-share", "n_g / Σ n, items of group g", "[0, 1]", "·", "share", "provider"),
    Metric("interaction-share", "t_g / Σ t, training interactions with group g", "[0, 1]", "·", "share", "provider"),
    Metric("relevance-share", "r_g / Σ r, held-out interactions with group g", "[0, 1]", "·", "share", "provider"),
    Metric(
        "exposure-lift",
        "exposure share of group g / its interaction share",
        "[0, ∞), 1 = as in training",
        "·",
        "Singh and Joachims 2018; Gómez, Boratto and Salamó 2022, who subtract",
        "provider",
    ),
    Metric(
        "provider-recall",
        "hits_g / r_g, held-out interactions with group g that are in the lists",
        "[0, 1]",
        "+",
        "Zhu, Wang and Caverlee 2020, the chances that reo compares",
        "provider",
    ),
    Metric(
        "ndcg-contribution",
        "mean over users of Σ_r h_r 1[item of group g] / log2(r+1), over that of an ideal list",
        "[0, 1], groups add up to ndcg",
        "+",
        "Järvelin and Kekäläinen 2002, shared out by item",
        "provider",
    ),
    Metric(
        "rsp",
        "std_g / mean_g of x_g / c_g, c_g candidates of group g",
        "[0, √(groups − 1)]",
        "-",
        "Zhu, Wang and Caverlee 2020, ranking-based statistical parity",
        "provider",
    ),
    Metric(
        "reo",
        "std_g / mean_g of hits_g / r_g, groups with 20 held-out interactions or more",
        "[0, √(groups − 1)]",
        "-",
        "Zhu, Wang and Caverlee 2020, ranking-based equal opportunity",
        "provider",
    ),
    Metric(
        "provider-gini", "gini of x_g over groups that have an item, 0 = equal", "[0, 1)", "-", "as gini", "provider"
    ),
    Metric(
        "exposure-kl",
        "Σ_g r_g ln(r_g / (.99 e_g + .01 r_g)), r and e the shares of relevance and exposure",
        "[0, ln 100] nats",
        "-",
        "Kullback and Leibler 1951; smoothed as Steck 2018",
        "provider",
    ),
    Metric("users", "users with a test item in the row's group", "1, 2, ...", "·", "count", "list"),
    Metric("interactions", "test interactions of the row's group", "1, 2, ...", "·", "count", "list"),
)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}
"""Every metric by name."""


SAMPLED = "sampled-99"
"""What the name of a metric over sampled candidates carries."""


@dataclass(frozen=True)
class MetricName:
    """A result's name, taken apart: "ndcg@10", "ndcg@10-gap", "auc-gap", "ndcg@10-sampled-99-gap".

    Attributes:
        metric: what is measured, "ndcg".
        k: the length of the list; None if it has none.
        sampled: whether held-out items were ranked among sampled candidates.
        summary: the function of users' values, "gap"; empty if there is none.
    """

    metric: str
    k: int | None = None
    sampled: bool = False
    summary: str = ""

    @classmethod
    def of(cls, name: str) -> MetricName:
        """Take a name apart; it need not be that of a known metric."""
        plain, at, rest = name.partition("@")
        if at:
            length, _, ending = rest.partition("-")
        else:
            length, ending = "", ""
            known = [other for other in METRICS if plain.startswith(f"{other}-")]
            if plain not in METRICS and known:
                plain = max(known, key=len)
                ending = name.removeprefix(f"{plain}-")
        sampled = ending == SAMPLED or ending.startswith(f"{SAMPLED}-")
        summary = ending.removeprefix(SAMPLED).removeprefix("-") if sampled else ending
        return cls(plain, int(length) if length.isdecimal() else None, sampled, summary)

    @property
    def candidates(self) -> Literal["all", "sampled-99"]:
        """What held-out items were ranked among."""
        return "sampled-99" if self.sampled else "all"


def sampled_name(name: str) -> str:
    """The name of a metric whose candidates are sampled: "ndcg@10-sampled-99"."""
    return f"{name}-{SAMPLED}"


def metric_of(name: str) -> Metric:
    """The metric of a result's name: "ndcg@10" and "ndcg@10-sampled-99" are ndcg, "ndcg@10-gap" is gap.

    Raises:
        ConfigError: if there is no such metric.
    """
    parts = MetricName.of(name)
    sought = parts.summary or parts.metric
    found = METRICS.get(sought)
    if found is None:
        raise ConfigError(f"unknown metric '{name}'; {did_you_mean(sought, METRICS)}")
    return found
