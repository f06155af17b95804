"""An experiment over nodes that hold shards: the run's numbers, what its messages hold, and how it goes on."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from flwr.app import ConfigRecord, Message
from safetensors.torch import load_file

from fedrec.data import DataConfig, load_interactions, load_split, shard, sharding
from fedrec.errors import ConfigError, PrivacyError, RunError
from fedrec.evaluation import MetricRow
from fedrec.experiment import ExperimentConfig, run
from fedrec.experiment.deployed import run_deployed
from fedrec.experiment.deployed_measuring import panel_of, unreported
from fedrec.federated.query import QUERIES
from fedrec.flower import InProcessGrid
from fedrec.flower.client import Values
from fedrec.flower.node_app import client, data_of, holding
from fedrec.flower.records import tensors
from tests.experiment.tiny import experiment, write_ratings

Own = dict[str, bool | float | int | str]


def document(ratings: Path, **changes: Any) -> dict[str, Any]:
    settings = experiment(ratings, seeds=[3], engine={"kind": "flower", "nodes": 3, "precision": "float64"}, **changes)
    settings["arms"].append(
        {
            "name": "dp-training",
            "method": {"kind": "ego-lightgcn", "dim": 4, "rounds": 3, "stopping": {"patience": 0}},
            "privacy": {"epsilon": 8.0, "delta": 1e-3},
            "participation": {"rate": 0.8},
        }
    )
    return settings


class Federation:
    """Three nodes with a shard each, and what they are sent and send."""

    def __init__(
        self, folder: Path, nodes: int = 3, extra: tuple[tuple[object, ...], ...] = (), **changes: Any
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.document = document(write_ratings(folder / "ratings.csv", extra=extra), **changes)
        self.config = ExperimentConfig.read(self.document)
        self.interactions, _ = load_interactions(self.config.data)
        self.shards = shard(self.interactions, nodes, folder / "shards")
        self.messages: list[Message] = []
        self.text = tomli_w.dumps(self.document)
        catalogue = str(folder / "shards" / "catalogue.parquet")
        configs: dict[int, Own] = {
            number: {"data": str(data), "catalogue": catalogue, "state": str(folder / f"state-{number}")}
            for number, data in enumerate(self.shards, start=1)
        }
        run_config: Own = {"experiment": self.text}
        self.grid = InProcessGrid(client, configs, run_config=run_config, look=self.messages.append)

    def deployed(self, name: str = "deployed") -> Path:
        return run_deployed(self.config, self.grid, self.folder / name)


def table(path: Path) -> pd.Series[float]:
    return pd.read_csv(path, keep_default_na=False).set_index(["arm", "seed", "split", "metric", "group"])["value"]


def test_the_run_is_that_of_all_data_in_one_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    federation = Federation(tmp_path)
    with caplog.at_level(logging.WARNING):
        deployed = federation.deployed()
    local_config = ExperimentConfig.read({**federation.document, "engine": {"precision": "float64"}})
    local = run(local_config, tmp_path / "local")
    found, expected = table(deployed / "metrics.csv"), table(local / "metrics.csv")
    assert {arm for arm, *_ in found.index} == {"popularity", "federated", "private", "dp-training"}
    assert "arms.central: method 'lightgcn' is trained where all data are" in caplog.text
    assert json.loads((deployed / "manifest.json").read_text())["left_out"] == ["central"]
    both = found.index.intersection(expected.index)
    assert len(both) >= 4 * 16
    assert (found[both] - expected[both]).abs().max() < 1e-9
    for arm in ("popularity", "federated", "private", "dp-training"):
        one, other = (load_file(run / "arms" / arm / "seed-3" / "model.safetensors") for run in (deployed, local))
        for name, tensor in one.items():
            same = other[f"server/{name}"]
            if name == "basis":  # of a subspace, which any basis of it stands for
                tensor, same = tensor @ tensor.T, same @ same.T
            assert (tensor.double() - same.double()).abs().max() < 1e-9
    guarantees = [
        json.loads((run / "summary.json").read_text())["arms"]["dp-training"]["guarantee"] for run in (deployed, local)
    ]
    assert guarantees[0]["epsilon"] == guarantees[1]["epsilon"]


def test_the_history_says_what_a_server_knows(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    rows = pd.read_csv(federation.deployed() / "history.csv")
    assert set(rows["disclosure"]) == {"server"}
    first = rows[(rows["arm"] == "federated") & (rows["round"] == 2)].set_index("name")["value"]
    assert (first["nodes"], first["failures"]) == (3, 0)
    assert first["mb_up"] > 0
    assert first["mb_down"] > 0
    assert 0 <= first["validation"] <= 1
    assert "answered" not in set(rows["name"])  # a deployment tells nobody how many users took part


def walked(message: Message) -> Iterator[tuple[str, str, object]]:
    """Every field of a message's content, as (record, field, value)."""
    for record, content in message.content.items():
        for name, value in content.items():
            yield record, name, value


def test_nothing_but_queries_sums_counts_and_the_guarantees_numbers_is_in_a_message(tmp_path: Path) -> None:
    """Of every message of a run of four arms, and no id, key or history of a user is anywhere in them."""
    federation = Federation(tmp_path)
    federation.deployed()
    asked: dict[str, Any] = {}
    keys = set(federation.interactions.users.keys.tolist())
    histories = [row.tolist() for row in torch.split(*_histories(federation))]
    answers = 0
    for message in federation.messages:
        assert message.metadata.message_type in ("query.greet", "query.sum")
        records = dict(message.content)
        answering = message.metadata.reply_to_message_id
        if message.metadata.message_type == "query.greet":
            fields = {"version", "users", "items", "catalogue", "parts"} if answering else {"version"}
            assert {name: set(content) for name, content in records.items()} == {"greeting": fields}
        elif not answering:
            assert set(records) == {"query", "settings", "broadcast", "request"}
            kind = records["query"]["kind"]
            query = QUERIES[kind].build(tensors(records["broadcast"]), dict(records["settings"]))
            asked[message.metadata.message_id] = query
            assert set(records["request"]) == {
                *("version", "session", "attempt", "seed", "round", "phase", "base_round", "base_phase", "keep"),
                *("participation", "randomness", "clip", "tables", "silo_by"),
            }
        else:
            answers += 1
            assert set(records) == {"answer", "sums", "counts"}
            query = asked[answering]
            assert {name.partition("/")[0] for name in records["sums"]} == set(query.tables)
            assert set(records["counts"]) == {"answered", "clipped", "delayed", "late", "refused"}
            assert set(records["answer"]) == {"version", "kind", "round", "phase", "attempt"}
        for record, name, value in walked(message):
            if isinstance(records[record], ConfigRecord):
                assert isinstance(value, int | float | str)
                assert not isinstance(value, str) or not any(
                    user in value for user in federation.interactions.users.ids
                )
            else:
                numbers = tensors(records[record])[name].flatten()
                assert keys.isdisjoint(numbers.tolist())
                assert numbers.long().tolist() not in histories
    assert answers > 3 * 10


def _histories(federation: Federation) -> tuple[torch.Tensor, list[int]]:
    indptr, items = load_split(federation.config.data, 3).split.train.csr
    return items, indptr.diff().tolist()


MASKED = {
    "name": "masked",
    "method": {"kind": "ego-lightgcn", "dim": 4, "rounds": 3, "stopping": {"patience": 0}},
    "privacy": {"epsilon": 8.0, "delta": 1e-3, "trust": "secagg"},
}


def test_with_trust_secagg_no_message_holds_a_nodes_sum(tmp_path: Path) -> None:
    """Neither of training nor of the test: arrays from nodes are masked words, and there is no count."""
    federation = Federation(tmp_path)
    federation.config = ExperimentConfig.read({**federation.document, "arms": [MASKED]})
    deployed = federation.deployed()
    replies = [m for m in federation.messages if m.metadata.reply_to_message_id]
    kinds = {message.content["answer"]["kind"] for message in replies if "answer" in message.content}
    assert kinds == {f"secure-{step}" for step in ("advertise", "share", "mask", "unmask")}
    asked = {m.content["query"]["kind"] for m in federation.messages if "query" in m.content}
    assert asked == {"local-training", "evaluate", "census", "membership", "measure"}
    for message in replies:
        assert set(message.content) <= {"greeting", "answer", "keys", "boxes", "words", "shares"}
        if "words" in message.content:
            words = tensors(message.content["words"])["words"].long() & 0xFFFFFFFF
            # Of n uniform words: the mean is off by six deviations once in 500 million.
            assert abs(float(words.double().mean()) / 2**32 - 0.5) < 6 * (1 / 12 / len(words)) ** 0.5
    guarantee = json.loads((deployed / "summary.json").read_text())["arms"]["masked"]["guarantee"]
    assert guarantee["trust"] == "secagg"
    for said in ("Not paid for", "without noise and of no single node", "whoever has it and the users' keys"):
        assert said in guarantee["words"]


def test_masks_change_no_number_of_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model, tested without them: numbers of users to the last one, means to the resolution."""
    federation = Federation(tmp_path)
    federation.config = ExperimentConfig.read({**federation.document, "arms": [MASKED]})
    masked = federation.deployed()
    monkeypatch.setattr("fedrec.experiment.deployed.asked_in_test", lambda engine, *_: engine)
    assert panel_of(masked / "panel.json").nodes == (1, 2, 3)
    plain = federation.deployed("plain")
    found, expected = table(masked / "metrics.csv"), table(plain / "metrics.csv")
    assert list(found.index) == list(expected.index)
    assert 0 < (found - expected).abs().max() < 1e-7
    counts = found.index.get_level_values("metric").isin(["users", "interactions"])
    assert counts.any()
    assert (found[counts] == expected[counts]).all()
    of = "arms/masked/seed-3/resamples.parquet"
    here, there = (pd.read_parquet(folder / of) for folder in (masked, plain))
    pd.testing.assert_frame_equal(here, there, rtol=0, atol=1e-6)


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_a_run_that_states_what_is_granted_goes_to_its_end_and_another_does_not_begin(
    tmp_path: Path, trust: str
) -> None:
    """Its tests are asked besides. The nodes know nothing of the other run but what their users have spent."""
    federation = Federation(tmp_path)
    for context in federation.grid._contexts.values():
        context.node_config.update({"epsilon": 8.0, "delta": 1e-3})
    arm = {**MASKED, "privacy": {"epsilon": 8.0, "delta": 1e-3, "trust": trust, "executed": False}}
    engine = {**federation.document["engine"], "randomness": "os"}
    federation.config = ExperimentConfig.read({**federation.document, "arms": [arm], "engine": engine})
    out = federation.deployed()
    assert not table(out / "metrics.csv").empty
    history = pd.read_csv(out / "history.csv").set_index(["name", "round"])["value"]
    assert history["failures"].sum() == 0
    (found,) = json.loads((out / "summary.json").read_text())["arms"].values()
    assert "keeps an account only if its operator granted it an epsilon" in found["guarantee"]["words"]
    with pytest.raises((RunError, PrivacyError), match="the operator grants epsilon = 8, and with this sum it would"):
        federation.deployed("another")


class _DiesReading(InProcessGrid):
    """A grid whose server is killed once nodes have answered some of its messages."""

    left = 10**9

    def pull_messages(self, message_ids: Any) -> Any:
        found = list(super().pull_messages(message_ids))
        self.left -= len(found)
        if self.left <= 0:
            raise KeyboardInterrupt
        return found


@pytest.mark.parametrize(("trust", "replies"), [("local", 9), ("distributed", 30)])
def test_a_run_that_is_resumed_within_a_round_costs_no_more_than_is_granted(
    tmp_path: Path, trust: str, replies: int
) -> None:
    """Killed when three nodes have noised the second round's sum, for which they are asked again.

    They have answered the greeting and two rounds; of a sum under masks the draw and four steps, the last of them once.
    """
    federation = Federation(tmp_path)
    for context in federation.grid._contexts.values():
        context.node_config.update({"epsilon": 8.0, "delta": 1e-3})
    arm = {**MASKED, "privacy": {"epsilon": 8.0, "delta": 1e-3, "trust": trust}}
    engine = {**federation.document["engine"], "randomness": "os"}
    federation.config = ExperimentConfig.read({**federation.document, "arms": [arm], "engine": engine})
    federation.grid.__class__ = _DiesReading
    federation.grid.left = replies
    with pytest.raises(KeyboardInterrupt):
        federation.deployed()
    last = federation.messages[-1].content["answer"]
    assert (last["round"], last["kind"]) == (2, "local-training" if trust == "local" else "secure-mask")
    federation.grid.left = 10**9
    history = pd.read_csv(federation.deployed() / "history.csv")
    assert sorted(history[history["name"] == "nodes"]["round"]) == [1, 2, 3]
    assert history[history["name"] == "failures"]["value"].sum() == 0


def test_what_says_whom_earlier_tests_are_over_must_be_read(tmp_path: Path) -> None:
    (tmp_path / "panel.json").write_text("[1, 2]")
    with pytest.raises(RunError, match=r"panel\.json: cannot be read"):
        panel_of(tmp_path / "panel.json")
    panel_of(tmp_path / "other.json").require([3, 1])
    assert panel_of(tmp_path / "other.json").nodes == (1, 3)


def test_what_is_reported_of_a_group_is_of_enough_users(tmp_path: Path) -> None:
    """Three of 24 users are more active than the others. Nothing of them is written, nor what would tell it."""
    extra = tuple((f"u{user}", f"m{item}", 3, 50) for user in range(3) for item in range(16))
    federation = Federation(tmp_path, extra=extra)
    federation.config = ExperimentConfig.read({**federation.document, "arms": [MASKED]})
    deployed = federation.deployed()
    metrics, summary = pd.read_csv(deployed / "metrics.csv", keep_default_na=False), (deployed / "summary.json")
    users = metrics[metrics["metric"] == "users"].set_index("group")["value"]
    assert dict(users) == {"": 24}
    assert not metrics["group"].str.startswith("activity").any()
    assert json.loads(summary.read_text())["arms"]["masked"]["groups"] == {}
    resampled = pd.read_parquet(deployed / "arms/masked/seed-3/resamples.parquet")
    assert not [name for name in map(str, resampled) if "/" in name]


def test_a_small_group_hides_behind_a_larger_one() -> None:
    """Of 200 users: 5 that are hidden and 2 of unknown age would be told by the rest, so that the 40 are hidden too."""
    ages = {"young": 5.0, "middle": 40.0, "old": 153.0}
    genders = {"F": 120.0, "M": 80.0}
    rows = [MetricRow("users", "", 200.0), MetricRow("users", "cold-users", 3.0), MetricRow("ndcg@5", "age=young", 0.5)]
    rows += [MetricRow("users", f"age={label}", users) for label, users in ages.items()]
    rows += [MetricRow("users", f"gender={label}", users) for label, users in genders.items()]
    hidden = unreported(rows, {"age": ("young", "middle", "old", "nobody"), "gender": ("F", "M")})
    assert hidden == {"cold-users", "age=young", "age=nobody", "age=middle"}
    more = [row if row.group != "age=old" else MetricRow("users", "age=old", 100.0) for row in rows]  # 55 unknown
    assert unreported(more, {"age": tuple(ages)}) == {"cold-users", "age=young"}


def test_too_few_nodes_for_masks_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    federation = Federation(tmp_path, nodes=1)
    engine = {**federation.document["engine"], "nodes": 1}
    federation.config = ExperimentConfig.read({**federation.document, "arms": [MASKED], "engine": engine})
    with pytest.raises(PrivacyError, match=r"arms\.masked: privacy\.trust = 'secagg'.* 1 nodes are too few"):
        federation.deployed()
    assert not (tmp_path / "deployed").exists()


class _DiesAfter(InProcessGrid):
    """A grid whose server is killed after some messages."""

    left = 10**9

    def push_messages(self, messages: Any) -> Any:
        found = list(messages)
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().push_messages(found)


@pytest.mark.parametrize("after", [5, 14])
def test_a_server_that_was_killed_goes_on_with_the_same_bytes(tmp_path: Path, after: int) -> None:
    expected = Federation(tmp_path / "whole").deployed()
    killed = Federation(tmp_path / "killed")
    killed.grid.__class__ = _DiesAfter
    killed.grid.left = after
    with pytest.raises(KeyboardInterrupt):
        killed.deployed()
    killed.grid.left = 10**9
    finished = killed.deployed()
    assert (finished / "metrics.csv").read_bytes() == (expected / "metrics.csv").read_bytes()
    assert json.loads((finished / "manifest.json").read_text())["resumed_at"]
    with pytest.raises(RunError, match="holds a finished run"):
        killed.deployed()


def test_a_release_that_nodes_may_have_seen_the_use_of_is_not_made_again(tmp_path: Path) -> None:
    """The server is killed between the two releases of a round, whose noise no seed tells.

    The second query broadcasts what follows from the first release. After the resumption the first is not asked for
    again, what is broadcast is the same, and the ledger holds each once.
    """
    arm = {
        "name": "private",
        "method": {"kind": "spectral", "factors": 3, "weight": "degree"},
        "privacy": {"epsilon": 8.0, "delta": 1e-3},
    }
    federation = Federation(tmp_path)
    engine = {**federation.document["engine"], "randomness": "os"}
    federation.config = ExperimentConfig.read({**federation.document, "arms": [arm], "engine": engine})
    federation.grid.__class__ = _DiesAfter
    federation.grid.left = 3  # the greeting, the count and the Gram matrix; then evaluation
    with pytest.raises(KeyboardInterrupt):
        federation.deployed()
    released = load_file(tmp_path / "deployed" / "arms" / "private" / "seed-3" / "released.safetensors")
    assert set(released) == {"1/0/count/count", "1/1/gram/gram"}
    (
        tmp_path / "deployed" / "arms" / "private" / "seed-3" / "checkpoint.safetensors"
    ).unlink()  # as if killed before it
    before = len(federation.messages)
    federation.grid.left = 10**9
    finished = federation.deployed()
    kinds = [m.content["query"]["kind"] for m in federation.messages[before:] if "query" in m.content]
    assert set(kinds) == {"evaluate", "census", "membership", "measure"}
    model = load_file(finished / "arms" / "private" / "seed-3" / "model.safetensors")
    degrees = released["1/0/count/count"].squeeze(1)
    assert torch.equal(model["weight"], degrees.clamp(min=1).rsqrt())
    guarantee = json.loads((finished / "summary.json").read_text())["arms"]["private"]["guarantee"]
    assert guarantee["releases_made"] == guarantee["releases"] == 2


def test_what_goes_on_must_be_what_began(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.grid.__class__ = _DiesAfter
    federation.grid.left = 5
    with pytest.raises(KeyboardInterrupt):
        federation.deployed()
    federation.grid.left = 10**9
    other = federation.config.model_copy(update={"seeds": (4,)})
    with pytest.raises(RunError, match="the configuration changed since the run began"):
        run_deployed(other, federation.grid, tmp_path / "deployed")
    federation.grid._contexts.pop(3)
    fewer = federation.config.model_copy(update={"engine": federation.config.engine.model_copy(update={"nodes": 2})})
    with pytest.raises(RunError, match="changed since the run began"):
        run_deployed(fewer, federation.grid, tmp_path / "deployed")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arms": [{"name": "central", "method": {"kind": "lightgcn"}}]}, "none is federated"),
        ({"tune": {"trials": 1, "unpaid": True}}, r"tune elsewhere, and run RUN/tuned\.toml here"),
        (
            {
                "arms": [
                    {
                        "name": "silos",
                        "method": {"kind": "popularity"},
                        "population": {"kind": "silos", "silos": 2},
                    }
                ]
            },
            r"population\.rule = 'random': nodes cannot tell who is in which silo; set 'attribute'",
        ),
    ],
)
def test_what_nodes_cannot_do_is_refused_before_anything_is_written(
    tmp_path: Path, changes: Mapping[str, Any], reason: str
) -> None:
    settings = {**document(write_ratings(tmp_path / "ratings.csv")), **changes}
    with pytest.raises(ConfigError, match=reason):
        run_deployed(ExperimentConfig.read(settings), InProcessGrid(client, {}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nodes_are_silos_where_a_column_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node holds the users of one value; where users are dealt otherwise, no node answers."""
    arm = {
        "name": "silos",
        "method": {"kind": "ego-lightgcn", "dim": 4, "rounds": 2, "stopping": {"patience": 0}},
        "population": {"kind": "silos", "rule": "attribute", "by": "group"},
        "privacy": {"epsilon": 8.0, "delta": 0.1, "unit": "silo"},
    }
    settings = {
        "name": "silos",
        "seeds": [3],
        "data": {"name": "synthetic", "synthetic": {"users": 50, "items": 40, "interactions": 8}},
        "evaluation": {"k": [10], "bootstrap": 100},
        "arms": [arm],
        "engine": {"precision": "float64"},
    }
    local = run(ExperimentConfig.read(settings), tmp_path / "local")
    config = ExperimentConfig.read({**settings, "engine": {"kind": "flower", "nodes": 2, "precision": "float64"}})
    interactions, _ = load_interactions(config.data)
    groups = interactions.user_attributes["group"].to_numpy()

    def deployed(name: str) -> Path:
        shards = shard(interactions, 2, tmp_path / f"shards-{name}")
        catalogue = str(tmp_path / f"shards-{name}" / "catalogue.parquet")
        configs: dict[int, Own] = {n: {"data": str(d), "catalogue": catalogue} for n, d in enumerate(shards, start=1)}
        grid = InProcessGrid(client, configs, run_config={"experiment": config.to_toml()})
        return run_deployed(config, grid, tmp_path / name)

    with pytest.raises(RunError, match="the node's users differ in it, and a node is one silo"):
        deployed("mixed")
    monkeypatch.setattr(sharding, "shares", lambda users, nodes: [np.flatnonzero(groups == v) for v in set(groups)])
    found, expected = (load_file(r / "arms/silos/seed-3/model.safetensors") for r in (deployed("dealt"), local))
    assert (found["items"] - expected["server/items"]).abs().max() < 1e-9
    words = json.loads((tmp_path / "dealt" / "summary.json").read_text())["arms"]["silos"]["guarantee"]["words"]
    assert "add or remove one silo, of 2, a number taken to be public" in words
    assert "of a node with one silo is that silo's answer" in words


def test_a_node_imports_nothing_that_the_experiment_names(tmp_path: Path) -> None:
    """`data_of` looks at the data alone; an arm's own module is the server's business."""
    text = 'seeds = [1]\n[data]\nname = "synthetic"\n[[arms]]\nmethod = { kind = "no_such_module:Evil" }\n'
    config, seed = data_of({"experiment": text, "set": "data.split.kind=ratio; seeds=[2]"})
    assert (config, seed) == (DataConfig.model_validate({"name": "synthetic", "split": {"kind": "ratio"}}), 2)
    with pytest.raises(ConfigError, match="has no experiment"):
        data_of({})
    with pytest.raises(ConfigError, match=r"no \[data\] section"):
        data_of({"experiment": "seeds = [1]"})


@pytest.mark.parametrize(
    ("told", "reason"),
    [({}, "names no data"), ({"data": "somewhere"}, "no `catalogue`")],
)
def test_a_node_says_what_its_operator_left_out(told: Values, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        holding(told, {"experiment": 'seeds = [1]\n[data]\nname = "synthetic"\n'})


def test_nodes_of_a_simulation_take_their_shares() -> None:
    run_config: Values = {"experiment": 'seeds = [1]\n[data]\nname = "synthetic"\n'}
    found = [holding({"partition-id": n, "num-partitions": 3}, run_config).devices for n in range(3)]
    split = load_split(DataConfig(name="synthetic"), 1).split
    keys = torch.cat([part.keys for part in found])
    assert sorted(keys.tolist()) == sorted(split.train.users.keys.tolist())
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_a_node_imports_nothing_slow_that_it_can_do_without() -> None:
    """A SuperNode starts a process for each message."""
    slow = {"matplotlib", "networkx", "numba", "opacus", "ray", "scipy.optimize", "scipy.stats", "sklearn"}
    script = f"import sys, fedrec.flower.node_app; sys.exit(', '.join({slow} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True).stderr == "\n"
