"""Each node is given its own users and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fedrec.data import (
    DataConfig,
    SyntheticConfig,
    clean,
    generate,
    load_interactions,
    load_split,
    read_interactions,
    read_shard,
    shard,
    split_of_node,
)
from fedrec.data.sharding import Public
from fedrec.errors import DataError

DATA = generate(SyntheticConfig(users=31, items=40, interactions=6))


def test_nodes_hold_disjoint_users_and_together_everything(tmp_path: Path) -> None:
    nodes = shard(DATA, 4, tmp_path / "nodes")
    tables = [pd.read_parquet(node / "interactions.parquet") for node in nodes]
    users = [set(table["user"]) for table in tables]
    assert sorted(map(len, users)) == [7, 8, 8, 8]
    assert len(set.union(*users)) == 31
    whole = pd.DataFrame({"user": DATA.users.decode(DATA.user), "item": DATA.items.decode(DATA.item)})
    dealt = pd.concat(tables)[["user", "item"]]
    assert sorted(map(tuple, dealt.to_numpy())) == sorted(map(tuple, whole.to_numpy()))
    for node, own in zip(nodes, users, strict=True):
        assert set(pd.read_parquet(node / "users.parquet")["user"]) == own
        assert {file.name for file in node.iterdir()} == {"interactions.parquet", "users.parquet"}
    catalogue = pd.read_parquet(tmp_path / "nodes" / "catalogue.parquet")
    assert list(catalogue["item"]) == list(DATA.items.ids)
    assert "genres" in catalogue.columns


def test_what_is_public_says_nothing_of_a_single_user(tmp_path: Path) -> None:
    shard(DATA, 4, tmp_path / "nodes")
    public = Public.beside(tmp_path / "nodes" / "catalogue.parquet")
    assert public.users == 31
    assert set(public.columns["group"]) == set(map(str, DATA.user_attributes["group"]))
    files = {file.name for file in (tmp_path / "nodes").iterdir() if file.is_file()}
    assert files == {"catalogue.parquet", "federation.json"}
    many = generate(SyntheticConfig(users=101, items=40, interactions=6))
    many = replace(many, user_attributes=pd.DataFrame({"zip": [f"{code:05}" for code in range(101)]}))
    assert Public.of(many).columns == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"users": 3, "columns": 4}'])
def test_what_is_public_must_be_there(tmp_path: Path, content: str) -> None:
    (tmp_path / "federation.json").write_text(content)
    with pytest.raises(DataError, match="cannot be read"):
        Public.beside(tmp_path / "catalogue.parquet")


def test_a_nodes_folder_is_read_like_any_other(tmp_path: Path) -> None:
    node = shard(DATA, 2, tmp_path / "nodes")[1]
    interactions, _ = clean(read_interactions(node, users=node / "users.parquet"))
    assert interactions.n_users == 15
    assert interactions.time is not None
    assert "group" in interactions.user_attributes.columns


def test_who_goes_where_depends_on_the_ids_alone(tmp_path: Path) -> None:
    first, again = (shard(DATA, 3, tmp_path / name) for name in ("a", "b"))
    for one, other in zip(first, again, strict=True):
        assert (one / "interactions.parquet").read_bytes() == (other / "interactions.parquet").read_bytes()


@pytest.mark.parametrize("nodes", [0, 32])
def test_a_senseless_number_of_nodes_is_refused(tmp_path: Path, nodes: int) -> None:
    with pytest.raises(DataError, match=f"{nodes} nodes for 31 users"):
        shard(DATA, nodes, tmp_path / "nodes")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_or_half_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists; choose a new folder"):
        shard(DATA, 2, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        shard(DATA, 2, tmp_path / "file" / "nodes")


@pytest.mark.parametrize(
    "split", [{"kind": "leave-one-out"}, {"kind": "leave-one-out", "order": "random"}, {"kind": "ratio"}]
)
def test_what_nodes_split_alone_is_the_split_of_the_whole(tmp_path: Path, split: dict[str, str]) -> None:
    """Original ids key whatever is drawn, and the catalogue gives the codes."""
    config = DataConfig.model_validate(
        {"name": "synthetic", "synthetic": {"users": 31, "items": 40, "interactions": 6}, "split": split}
    )
    whole = load_split(config, 3).split
    nodes = shard(load_interactions(config)[0], 4, tmp_path / "nodes")
    parts = [split_of_node(read_shard(node, tmp_path / "nodes" / "catalogue.parquet"), config, 3) for node in nodes]
    for name in ("train", "valid", "test"):
        of_nodes = [getattr(part, name) for part in parts]
        pairs = [pair for own in of_nodes for pair in zip(own.users.decode(own.user), own.item, strict=True)]
        part = getattr(whole, name)
        assert sorted(pairs) == sorted(zip(part.users.decode(part.user), part.item, strict=True))
        assert all(own.items.ids == part.items.ids for own in of_nodes)
