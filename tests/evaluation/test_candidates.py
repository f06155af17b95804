"""Sampled candidates: who can be drawn, that the draw is the user's own, and that their metrics say so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from fedrec.components import build_config
from fedrec.data.interactions import Split
from fedrec.errors import ConfigError
from fedrec.evaluation import EvaluationConfig, evaluate, make_validator
from fedrec.evaluation.candidates import N_SAMPLED, draw_candidates, top_k_among, with_relevant
from fedrec.streams import Streams, keys_of

from .small import csr_of, random_scores, random_split, split_of, table_scorer

USERS, ITEMS = (keys_of(f"{letter}{code}" for code in range(300)) for letter in "ui")


def configured(**settings: object) -> EvaluationConfig:
    config = build_config(EvaluationConfig, settings, "evaluation")
    assert isinstance(config, EvaluationConfig)
    return config


def sampled_only(k: int) -> EvaluationConfig:
    return configured(k=[k], candidates="sampled-99", metric=f"ndcg@{k}-sampled-99")


def test_ninety_nine_different_items_outside_the_excluded_ones() -> None:
    excluded = [list(range(user, user + 150)) for user in range(20)]
    drawn = draw_candidates(Streams(0), "c", torch.arange(20), [csr_of(excluded), csr_of([[299]] * 20)], USERS, ITEMS)
    assert drawn.shape == (20, N_SAMPLED)
    for row, out in zip(drawn.tolist(), excluded, strict=True):
        assert len(set(row)) == N_SAMPLED
        assert not {*out, 299} & set(row)
        assert min(row) >= 0


def test_a_user_draws_the_same_alone_and_whatever_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    none = csr_of([[]] * 300)
    together = draw_candidates(Streams(0), "c", torch.arange(300), [none], USERS, ITEMS)
    alone = draw_candidates(Streams(0), "c", torch.tensor([7]), [none], USERS, ITEMS)
    assert torch.equal(together[7:8], alone)
    code = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    recoded = draw_candidates(Streams(0), "c", torch.tensor([7]), [none], USERS, ITEMS[code])
    assert set(code[recoded[0]].tolist()) == set(alone[0].tolist())
    monkeypatch.setattr("fedrec.evaluation.candidates._WORDS_PER_CHUNK", 1000)
    assert torch.equal(draw_candidates(Streams(0), "c", torch.arange(300), [none], USERS, ITEMS), together)
    assert not torch.equal(draw_candidates(Streams(1), "c", torch.tensor([7]), [none], USERS, ITEMS), alone)
    assert not torch.equal(draw_candidates(Streams(0), "d", torch.tensor([7]), [none], USERS, ITEMS), alone)


def test_every_item_is_drawn_as_often() -> None:
    """Of 200 items, each by 99/200 of 300 users: χ² of the counts, scaled for draws without replacement.

    False alarm 1e-6.
    """
    none = csr_of([[]] * 300)
    drawn = draw_candidates(Streams(3), "c", torch.arange(300), [none], USERS, ITEMS[:200])
    counts, share = torch.bincount(drawn.flatten(), minlength=200).double(), N_SAMPLED / 200
    statistic = float(((counts - 300 * share) ** 2).sum() / (300 * share * (1 - share))) * 199 / 200
    assert 1e-6 / 2 < scipy.stats.chi2.sf(statistic, 199) < 1 - 1e-6 / 2


def test_where_there_are_fewer_all_of_them_are_candidates() -> None:
    drawn = draw_candidates(Streams(0), "c", torch.tensor([0, 1]), [csr_of([[0, 1], [2]])], USERS, ITEMS[:5])
    assert [sorted(item for item in row if item >= 0) for row in drawn.tolist()] == [[2, 3, 4], [0, 1, 3, 4]]


def test_lists_among_candidates_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.9]])
    among = with_relevant(torch.tensor([[0, 2, -1]]), torch.tensor([0]), csr_of([[3]]))
    assert among.tolist() == [[0, 2, -1, 3]]
    values, items = top_k_among(scores, among, 5, USERS[:1], ITEMS, Streams(0))
    assert items.tolist() == [[3, 2, 0, -1, -1]]
    assert values.tolist() == [[pytest.approx(0.7), 0.5, pytest.approx(0.1), -torch.inf, -torch.inf]]


def small_world() -> Split:
    """Fewer than 99 items to draw from: sampled candidates are all there are, but for other users' test items."""
    return random_split(60, 40)


def test_sampling_everything_is_full_ranking() -> None:
    split, score = small_world(), table_scorer(torch.randint(9, (60, 40)).float())
    found = evaluate(score, split, configured(k=[3, 10], candidates=["all", "sampled-99"], metric="ndcg@10"), 0)
    for name in ("ndcg@10", "recall@3", "map@10"):
        assert torch.equal(found.per_user[name], found.per_user[f"{name}-sampled-99"])
    assert found.value("ndcg@10-sampled-99-gap", "gender") == found.value("ndcg@10-gap", "gender")
    assert found.value("ndcg@10-sampled-99-worst-decile") == found.value("ndcg@10-worst-decile")


def large_world() -> tuple[Split, torch.nn.Module]:
    return random_split(200, 300, seed=2), table_scorer(random_scores(200, 300))


def test_random_scores_hit_at_the_chance_of_101_candidates() -> None:
    """Two test items among 101 candidates: recall@10 has mean 10/101; its deviation over 200 users is known.

    Hypergeometric hits, 4.9 standard errors: a false alarm once in a million seeds.
    """
    split, score = large_world()
    found = evaluate(score, split, sampled_only(10), 0)
    expected, deviation = 10 / 101, scipy.stats.hypergeom(101, 2, 10).std() / 2
    assert abs(found.value("recall@10-sampled-99") - expected) < 4.9 * deviation / 200**0.5


def test_sampled_alone_has_no_other_name_and_no_diversity() -> None:
    split, score = large_world()
    found = evaluate(score, split, sampled_only(10), 0)
    assert all("sampled-99" in row.metric or row.metric in ("users", "interactions") for row in found.rows)
    assert found.lists.items.shape == (200, 10)
    both = evaluate(score, split, configured(candidates=["sampled-99", "all"]), 0)
    plain = evaluate(score, split, configured(), 0)
    assert torch.equal(both.lists.items, plain.lists.items)
    assert torch.equal(both.per_user["ndcg@10-sampled-99"], found.per_user["ndcg@10-sampled-99"])
    assert set(plain.rows) <= set(both.rows)
    assert both.value("ndcg@10-sampled-99") > both.value("ndcg@10")  # fewer to compete with


def test_a_segment_of_cold_users_is_sampled_too() -> None:
    split = split_of(2, 3, [(0, 0)], [], [(0, 1), (1, 2)])
    found = evaluate(table_scorer(torch.tensor([[0.0, 2.0, 1.0]] * 2)), split, sampled_only(1), 0)
    assert found.value("ndcg@1-sampled-99", "cold-users") == 0.0
    assert found.value("ndcg@1-sampled-99") == 1.0


def test_validation_selects_by_sampled_candidates_and_knows_nothing_of_test() -> None:
    split, score = large_world()
    validate = make_validator(split, sampled_only(10), 0)
    other = make_validator(replace(split, test=split.train), sampled_only(10), 0)
    full = make_validator(split, configured(), 0)
    assert validate is not None
    assert other is not None
    assert full is not None
    assert validate(score) == other(score)
    assert validate(score) > full(score)
    truth = torch.zeros(200, 300)
    truth[torch.from_numpy(split.valid.user), torch.from_numpy(split.valid.item)] = 1.0
    assert validate(table_scorer(truth)) == 1.0
    assert validate(table_scorer(-truth)) == 0.0


def test_candidates_are_drawn_outside_everything_that_a_user_has() -> None:
    """A scorer that puts training and validation items first still ranks test items first among candidates."""
    split, _ = large_world()
    scores = torch.zeros(200, 300)
    for part, value in ((split.train, 3.0), (split.valid, 2.0), (split.test, 1.0)):
        scores[torch.from_numpy(np.asarray(part.user)), torch.from_numpy(np.asarray(part.item))] = value
    assert evaluate(table_scorer(scores), split, sampled_only(10), 0).value("ndcg@10-sampled-99") == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": "some"}, r"evaluation\.candidates\.0 = 'some'"),
        ({"candidates": []}, "give 'all', 'sampled-99' or both"),
        ({"candidates": ["all", "all"]}, "each once"),
        ({"candidates": "sampled-99"}, "try 'ndcg@10-sampled-99'"),
        ({"metric": "ndcg@10-sampled-99"}, "try 'ndcg@10'"),
        ({"metric": "ndcg@10-gap"}, "try 'ndcg@10'"),
    ],
)
def test_bad_settings_name_the_remedy(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(**settings)
