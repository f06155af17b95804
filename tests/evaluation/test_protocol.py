"""What is a candidate, who is in which mean, and what validation may know."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from fedrec.components import build_config
from fedrec.data.interactions import Split
from fedrec.errors import ConfigError, DataError, ModelError
from fedrec.evaluation import METRICS, EvaluationConfig, evaluate, make_validator, metric_of

from .small import random_scores, random_split, split_of, table_scorer

CONFIG = EvaluationConfig(k=(1, 2), metric="recall@2")


def evaluation(**settings: object) -> EvaluationConfig:
    config = build_config(EvaluationConfig, settings, "evaluation")
    assert isinstance(config, EvaluationConfig)
    return config


def rated(split: Split) -> Split:
    """The same split, whose test items were rated 1 to 5 in turn."""
    return replace(split, test=replace(split.test, rating=np.arange(len(split.test)).astype(np.float64) % 5 + 1))


def falling(n_users: int, n_items: int) -> torch.nn.Module:
    """Everyone's best item is 0, then 1, ..."""
    return table_scorer(-torch.arange(float(n_items)).repeat(n_users, 1))


# Users 0 and 1 are warm, user 2 is cold (no training item), user 3 has no test item.
SPLIT = split_of(
    4,
    6,
    train=[(0, 0), (1, 1), (1, 2), (3, 0)],
    valid=[(0, 1), (1, 3)],
    test=[(0, 2), (0, 5), (1, 4), (2, 0)],
    items={"genres": ["A", "A", "B", "B", "A|B", None]},
)


def test_lists_leave_out_training_and_validation_items() -> None:
    found = evaluate(falling(4, 6), SPLIT, CONFIG, seed=0)
    assert found.lists.users.tolist() == [0, 1, 2]
    assert found.lists.items.tolist() == [[2, 3], [0, 4], [0, 1]]


def test_overall_values_by_hand_are_those_of_warm_users() -> None:
    found = evaluate(falling(4, 6), SPLIT, CONFIG, seed=0)
    assert found.users.tolist() == [0, 1]
    assert found.per_user["recall@1"].tolist() == [0.5, 0.0]
    assert found.per_user["recall@2"].tolist() == [0.5, 1.0]
    assert found.value("recall@2") == 0.75
    assert (found.value("users"), found.value("interactions")) == (2, 3)
    assert found.value("coverage@2") == 4 / 6  # items 2, 3, 0 and 4; item 1 is in the cold user's list alone


def test_cold_users_are_a_segment_of_their_own() -> None:
    found = evaluate(falling(4, 6), SPLIT, CONFIG, seed=0)
    assert (found.value("users", "cold-users"), found.value("interactions", "cold-users")) == (1, 1)
    assert found.value("recall@1", "cold-users") == 1.0


def test_cold_items_count_overall_and_are_a_segment() -> None:
    """Items 4 and 5 occur in no training interaction: user 0 holds out item 5, user 1 item 4."""
    found = evaluate(falling(4, 6), SPLIT, CONFIG, seed=0)
    assert (found.value("users", "cold-items"), found.value("interactions", "cold-items")) == (2, 2)
    assert found.value("recall@2", "cold-items") == 0.5


def test_the_cold_items_of_a_cold_user_are_in_no_segment_but_its_own() -> None:
    """The cold user 2 is shown items 0 and 1 and holds out the cold item 5: it would lower the mean if it counted."""
    test = [(0, 2), (0, 5), (1, 4), (2, 0), (2, 5)]
    pairs = [(0, 0), (1, 1), (1, 2), (3, 0)], [(0, 1), (1, 3)], test
    found = evaluate(falling(4, 6), split_of(4, 6, *pairs), CONFIG, seed=0)
    assert (found.value("users", "cold-items"), found.value("interactions", "cold-items")) == (2, 2)
    assert found.value("recall@2", "cold-items") == 0.5
    assert found.value("interactions", "cold-users") == 2


def test_without_cold_users_or_items_there_is_no_such_segment() -> None:
    warm = split_of(2, 3, [(0, 0), (1, 1), (1, 2)], [], [(0, 1), (1, 0)])
    assert {row.group for row in evaluate(falling(2, 3), warm, CONFIG, 0).rows} == {
        *("", "activity=low", "activity=middle"),
        *("popularity", "popularity=low", "popularity=middle", "popularity=high"),
    }


def test_list_level_rows_by_hand() -> None:
    found = evaluate(falling(4, 6), SPLIT, CONFIG, seed=0)
    assert found.value("personalization@2") == 1.0
    # Popularity 2 1 1 0 0 0: lists {2, 3} and {0, 4} have means 1/2 and 1, histories {0} and {1, 2} have 2 and 1.
    assert found.value("popularity-lift@2") == 0.75 / 1.5
    # Genres B and B; A and A|B.
    assert found.per_user["intra-list-diversity@2"].tolist() == pytest.approx([0.0, 1 - 0.5**0.5])


def test_popularity_is_in_double_precision() -> None:
    """Popularity 2 1 1 0; histories {0, 1, 2} and {0} have means 4/3 and 2, lists {3} and {1} have 0 and 1."""
    split = split_of(2, 4, [(0, 0), (0, 1), (0, 2), (1, 0)], [], [(0, 3), (1, 1)])
    found = evaluate(falling(2, 4), split, evaluation(k=[1], metric="ndcg@1"), seed=0)
    assert found.value("popularity-lift@1") == pytest.approx(0.5 / ((4 / 3 + 2) / 2), rel=1e-12)


def test_a_full_evaluation_has_every_metric_and_no_other() -> None:
    found = evaluate(
        table_scorer(random_scores(90, 40)),
        rated(random_split(90, 40)),
        evaluation(k=[3, 5], metric="ndcg@5", candidates=["all", "sampled-99"]),
        0,
        rates=True,
    )
    assert {metric_of(row.metric).name for row in found.rows} == set(METRICS)
    assert len({(row.metric, row.group) for row in found.rows}) == len(found.rows)
    assert all(torch.isfinite(torch.tensor(row.value)) for row in found.rows)
    for metric, values in found.per_user.items():
        assert len(values) == len(found.users) == 90
        assert found.value(metric) == float(values.mean())


def test_the_area_under_the_curve_by_hand() -> None:
    """User 0 ranks 2 3 4 5 and holds out 2 and 5: of its four pairs two are in order. User 1: 0, then 4, then 5."""
    found = evaluate(falling(4, 6), SPLIT, CONFIG, seed=0)
    assert found.per_user["auc"].tolist() == [0.5, 0.5]
    assert found.value("auc", "cold-users") == 1.0
    assert found.value("auc-worst-decile") == 0.5


def test_the_area_is_that_of_scikit_learn_user_by_user() -> None:
    from sklearn.metrics import roc_auc_score

    split, scores = random_split(50, 60), torch.randint(8, (50, 60), generator=torch.Generator().manual_seed(1)).float()
    both = evaluation(candidates=["all", "sampled-99"])  # all that can be drawn is drawn: the same pairs
    found = evaluate(table_scorer(scores), split, both, 0)
    for place, user in enumerate(found.users.tolist()):
        out = set(np.concatenate([part.item[part.user == user] for part in (split.train, split.valid)]).tolist())
        candidates = [item for item in range(60) if item not in out]
        held_out = set(split.test.item[split.test.user == user].tolist())
        expected = roc_auc_score([item in held_out for item in candidates], scores[user, candidates].numpy())
        assert float(found.per_user["auc"][place]) == pytest.approx(expected, abs=1e-12)
    assert torch.equal(found.per_user["auc"], found.per_user["auc-sampled-99"])


def test_errors_of_predicted_ratings_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import mean_absolute_error, root_mean_squared_error

    split, scores = rated(random_split(30, 40)), 5 * random_scores(30, 40)
    found = evaluate(table_scorer(scores), split, evaluation(), 0, rates=True)
    predicted = scores[torch.from_numpy(split.test.user), torch.from_numpy(split.test.item)].double().numpy()
    assert found.value("rmse") == pytest.approx(root_mean_squared_error(split.test.rating, predicted), abs=1e-12)
    assert found.value("mae") == pytest.approx(mean_absolute_error(split.test.rating, predicted), abs=1e-12)
    names = {row.metric for row in evaluate(table_scorer(scores), split, evaluation(), 0).rows}
    assert not {"rmse", "mae"} & names  # a score is no rating unless the model says so


def test_errors_are_those_of_warm_users() -> None:
    split = split_of(2, 3, [(0, 0)], [], [(0, 2), (1, 1)])
    split = replace(split, test=replace(split.test, rating=np.array([3.0, 100.0])))
    found = evaluate(table_scorer(torch.ones(2, 3)), split, evaluation(k=[1], metric="ndcg@1"), 0, rates=True)
    assert found.value("mae") == 2.0


def test_provider_rows_by_hand() -> None:
    """Lists {2, 3} and {0, 4} over genres A A B B A|B none: A has 1.5 places, B 2.5, of 2.5 and 2.5 items."""
    config = evaluation(k=[2], metric="ndcg@2", item_groups=["genres"])
    found = evaluate(falling(4, 6), SPLIT, config, seed=0)
    assert found.value("exposure-share@2", "genres=A") == 1.5 / 4
    assert found.value("catalogue-share", "genres=A") == 0.5
    assert found.value("relevance-share", "genres=A") == 0.25  # held out 2 (B), 5 (none) and 4 (both)
    assert found.value("provider-gini@2", "genres") == pytest.approx(1 / 8)
    # Candidates: user 0 leaves out 0 and 1, user 1 leaves out 1, 2 and 3: A 0.5 + 1.5, B 2.5 + 0.5.
    chances = np.array([1.5 / 2, 2.5 / 3])
    assert found.value("rsp@2", "genres") == pytest.approx(chances.std() / chances.mean())
    wanted, shown = np.array([0.25, 0.75]), 0.99 * np.array([0.375, 0.625]) + 0.01 * np.array([0.25, 0.75])
    assert found.value("exposure-kl@2", "genres") == pytest.approx(float((wanted * np.log(wanted / shown)).sum()))


def test_contributions_of_groups_add_up_to_ndcg_where_every_item_is_of_a_group() -> None:
    split = random_split(60, 40)
    found = evaluate(table_scorer(random_scores(60, 40)), split, evaluation(), 0)
    values = {row.group: row.value for row in found.rows if row.metric == "ndcg-contribution@10"}
    assert values.keys() == {f"popularity={label}" for label in ("low", "middle", "high")}
    assert sum(values.values()) == pytest.approx(found.value("ndcg@10"))
    some = ["a" if code % 2 else None for code in range(40)]
    split = replace(split, train=replace(split.train, item_attributes=pd.DataFrame({"author": some})))
    found = evaluate(table_scorer(random_scores(60, 40)), split, evaluation(), 0)
    part = found.value("ndcg-contribution@10", "author=a")
    assert 0 < part < found.value("ndcg@10")
    assert part == found.value("ndcg-contribution@10", "author-size=large")
    # Nobody is small: there is nothing that its exposure or its hits could be a share of.
    rows = {row.metric.partition("@")[0] for row in found.rows if row.group == "author-size=small"}
    assert rows == {"exposure-share", "catalogue-share", "interaction-share", "relevance-share", "ndcg-contribution"}


def test_equal_opportunity_compares_groups_with_enough_relevant_items() -> None:
    """Everyone is shown item 1: who holds it out is served, who holds out item 2 or 3 is not."""
    for extra, expected in ((19, 1.0), (20, 2**0.5)):  # chances 1 and 0; 1, 0 and 0
        n = 40 + extra
        test = [(user, 1 if user < 20 else 2 if user < 40 else 3) for user in range(n)]
        split = split_of(n, 4, [(user, 0) for user in range(n)], [], test, items={"kind": ["a", "b", "c", "d"]})
        found = evaluate(falling(n, 4), split, evaluation(k=[1], metric="ndcg@1", item_groups=["kind"]), 0)
        assert found.value("reo@1", "kind") == pytest.approx(expected)


def test_equal_opportunity_counts_interactions_with_items_of_several_groups_in_full() -> None:
    """Everyone is shown item 1, of b and d by half: 20 hold it out. Whoever holds out item 2 is not served."""
    for others, expected in ((19, 0.0), (20, 0.5**0.5)):  # chances 1 and 1; 1, 1 and 0
        n = 20 + others
        test = [(user, 1 if user < 20 else 2) for user in range(n)]
        split = split_of(n, 3, [(user, 0) for user in range(n)], [], test, items={"kind": ["a", "b|d", "c"]})
        found = evaluate(falling(n, 3), split, evaluation(k=[1], metric="ndcg@1", item_groups=["kind"]), 0)
        assert found.value("reo@1", "kind") == pytest.approx(expected)


def test_groups_without_an_item_are_no_providers_whom_lists_leave_out() -> None:
    """Author a has 4 of 5 training interactions, so that nobody is in the middle; a and b are shown twice each."""
    split = split_of(
        5,
        4,
        [(0, 0), (1, 0), (2, 0), (3, 0), (4, 2)],
        [],
        [(user, 3) for user in range(4)],
        items={"author": ["a", "a", "b", "b"]},
    )
    scores = torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 2 + [[0.0, 0.0, 1.0, 0.0]] * 3)
    found = evaluate(table_scorer(scores), split, evaluation(k=[1], metric="ndcg@1"), 0)
    assert found.value("catalogue-share", "author-size=middle") == 0.0
    assert [found.value("exposure-share@1", f"author-size={size}") for size in ("small", "large")] == [0.5, 0.5]
    assert found.value("provider-gini@1", "author") == found.value("provider-gini@1", "author-size") == 0.0


def test_a_column_of_many_authors_is_summed_up_and_not_listed() -> None:
    split = random_split(60, 150)
    split = replace(split, train=replace(split.train, item_attributes=pd.DataFrame({"author": range(150)})))
    rows = evaluate(table_scorer(random_scores(60, 150)), split, evaluation(), 0).rows
    assert {row.metric for row in rows if row.group == "author"} >= {"provider-gini@10", "rsp@10", "exposure-kl@10"}
    assert not [row for row in rows if row.group.startswith("author=")]


def test_group_rows_are_means_over_the_group() -> None:
    split = random_split(90, 40)
    found = evaluate(table_scorer(random_scores(90, 40)), split, evaluation(k=[10]), 0)
    for gender in ("F", "M"):
        members = torch.tensor((split.train.user_attributes["gender"] == gender).to_numpy(copy=True))[found.users]
        assert found.value("users", f"gender={gender}") == float(members.sum())
        assert found.value("ndcg@10", f"gender={gender}") == pytest.approx(
            float(found.per_user["ndcg@10"][members].mean())
        )
    women, men = found.value("ndcg@10", "gender=F"), found.value("ndcg@10", "gender=M")
    assert found.value("ndcg@10-gap", "gender") == abs(women - men)
    assert found.value("ndcg@10-worst-group", "gender") == min(women, men)
    assert found.value("ndcg@10-ratio", "gender") == min(women, men) / max(women, men)


def test_groups_are_those_of_the_users_of_the_means() -> None:
    split = replace(SPLIT, train=replace(SPLIT.train, user_attributes=pd.DataFrame({"kind": ["a", None, "b", "c"]})))
    found = evaluate(falling(4, 6), split, evaluation(k=[1], metric="ndcg@1", groups=["kind", "activity"]), 0)
    assert found.users.tolist() == [0, 1]
    kind, activity = found.groups
    assert (kind.name, kind.labels, kind.codes.tolist()) == ("kind", ("a", "b", "c"), [0, -1])
    assert (activity.name, activity.codes.tolist()) == ("activity", [0, 2])


def test_small_groups_are_reported_and_left_out_of_the_gap() -> None:
    """19 users of a third group, who get everything right, move no gap; with a 20th they do."""
    for extra, counted in ((19, False), (20, True)):
        labels = ["a"] * 20 + ["b"] * 20 + ["c"] * extra
        n = len(labels)
        pairs = [(user, 0) for user in range(n)], [(user, 1 if user >= 40 else 2) for user in range(n)]
        split = split_of(n, 4, pairs[0], [], pairs[1], users={"kind": list(labels)})
        found = evaluate(falling(n, 4), split, evaluation(k=[1], metric="ndcg@1", groups=["kind"]), 0)
        assert found.value("users", "kind=c") == extra
        assert found.value("recall@1", "kind=c") == 1.0
        assert found.value("recall@1-gap", "kind") == float(counted)


def test_a_single_group_has_no_gap() -> None:
    split = split_of(2, 3, [(0, 0), (1, 0)], [], [(0, 1), (1, 2)], users={"kind": ["a", "a"]})
    rows = evaluate(falling(2, 3), split, evaluation(k=[1], metric="ndcg@1", groups=["kind"]), 0).rows
    assert not [row for row in rows if row.group == "kind"]


def test_the_same_seed_gives_the_same_rows_and_another_orders_ties_otherwise() -> None:
    split, flat = random_split(60, 40), table_scorer(torch.zeros(60, 40))
    first = evaluate(flat, split, evaluation(), 0)
    assert evaluate(flat, split, evaluation(), 0).rows == first.rows
    assert evaluate(flat, split, evaluation(), 1).rows != first.rows


def test_a_perfect_and_a_perverse_scorer() -> None:
    split = random_split(60, 40)
    truth = torch.zeros(60, 40)
    truth[torch.from_numpy(split.test.user), torch.from_numpy(split.test.item)] = 1.0
    perfect = evaluate(table_scorer(truth), split, evaluation(), 0)
    perverse = evaluate(table_scorer(-truth), split, evaluation(), 0)
    for metric in ("recall@5", "ndcg@5", "ndcg@20", "mrr@5", "map@5", "hit-rate@5"):
        assert perfect.value(metric) == 1.0
        assert perverse.value(metric) == 0.0


def test_validation_by_hand() -> None:
    """Training items are no candidates, test items are: user 0 ranks 1 first, user 1 ranks 0, then 3."""
    first = make_validator(SPLIT, evaluation(k=[1, 2], metric="mrr@2"), 0)
    assert first is not None
    assert first(falling(4, 6)) == (1 + 1 / 2) / 2


def test_validation_is_of_warm_users() -> None:
    split = split_of(2, 3, [(0, 0)], [(0, 1), (1, 2)], [(0, 2)])
    validate = make_validator(split, CONFIG, 0)
    assert validate is not None
    asked: list[int] = []

    def score(users: Tensor) -> Tensor:
        asked.extend(users.tolist())
        return torch.zeros(len(users), 3)

    validate(score)
    assert asked == [0]


def test_nothing_held_out_is_no_validator() -> None:
    assert make_validator(split_of(1, 2, [(0, 0)], [], [(0, 1)]), CONFIG, 0) is None


def test_a_validator_does_not_hold_the_test_part() -> None:
    """Neither by value (another test part changes nothing) nor by reference (none of its arrays can be reached)."""
    split = random_split(30, 40)
    score = table_scorer(random_scores(30, 40))
    validate = make_validator(split, evaluation(), 0)
    other = make_validator(replace(split, test=split.train), evaluation(), 0)
    assert validate is not None
    assert other is not None
    assert validate(score) == other(score)

    forbidden = {id(split), id(split.test), id(split.test.user), id(split.test.item), *map(id, split.test.csr)}
    seen: set[int] = set()
    left: list[object] = [validate]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        left += [held for held in gc.get_referents(one) if not isinstance(held, type)]
    assert len(seen) > 10
    assert not seen & forbidden


def test_a_diverged_model_raises() -> None:
    broken = table_scorer(torch.full((4, 6), float("nan")))
    validate = make_validator(SPLIT, CONFIG, 0)
    assert validate is not None
    with pytest.raises(ModelError, match="NaN or infinite"):
        validate(broken)
    with pytest.raises(ModelError, match="NaN or infinite"):
        evaluate(broken, SPLIT, CONFIG, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": []}, r"evaluation\.k = \[\]: give at least one"),
        ({"k": [5, 5], "metric": "ndcg@5"}, r"evaluation\.k = \[5, 5\]: give .* each once"),
        ({"k": [0]}, r"evaluation\.k\.0 = 0: .* greater than or equal to 1"),
        ({"metric": "ncdg@10"}, r"evaluation\.metric = 'ncdg@10': .* did you mean 'ndcg'"),
        ({"metric": "ndcg@7"}, r"evaluation\.metric = 'ndcg@7': its k must be one of 5, 10, 20"),
        ({"metric": "ndcg"}, r"evaluation\.metric = 'ndcg': its k must be one of"),
        ({"bootstrap": 10}, r"evaluation\.bootstrap = 10"),
        ({"ks": [5]}, "unknown key 'ks'; did you mean 'k'"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluation(**settings)


def test_k_beyond_the_catalogue_raises_before_training() -> None:
    with pytest.raises(ConfigError, match="k = 20 exceeds the catalogue of 6 items"):
        make_validator(SPLIT, EvaluationConfig(), 0)
    with pytest.raises(ConfigError, match="k = 20 exceeds the catalogue of 6 items"):
        evaluate(falling(4, 6), SPLIT, EvaluationConfig(), 0)


def test_unknown_columns_raise() -> None:
    with pytest.raises(ConfigError, match="no user column 'gender'"):
        evaluate(falling(4, 6), SPLIT, evaluation(k=[1], metric="ndcg@1", groups=["gender"]), 0)
    with pytest.raises(ConfigError, match="item_groups: no item column 'autor'"):
        evaluate(falling(4, 6), SPLIT, evaluation(k=[1], metric="ndcg@1", item_groups=["autor"]), 0)
    with pytest.raises(ConfigError, match="no item column 'genre'; did you mean 'genres'"):
        evaluate(falling(4, 6), SPLIT, evaluation(k=[1], metric="ndcg@1", categories="genre"), 0)


def test_a_split_without_histories_raises() -> None:
    with pytest.raises(DataError, match="both a training item and a held-out item"):
        evaluate(falling(2, 3), split_of(2, 3, [(0, 0)], [], [(1, 1)]), CONFIG, 0)


def test_an_unknown_row_names_the_nearest() -> None:
    found = evaluate(falling(4, 6), SPLIT, CONFIG, 0)
    with pytest.raises(ConfigError, match="no metric 'recal@2' among the overall values; did you mean 'recall@2'"):
        found.value("recal@2")
