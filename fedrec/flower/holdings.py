"""What a node holds, from where it is kept: devices in a file, or a shard of interactions that its operator names."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fedrec.data.interactions import Vocabulary
from fedrec.data.sharding import FEDERATION
from fedrec.errors import ConfigError, DataError
from fedrec.federated import Devices, HeldOutItems
from fedrec.flower.records import digest_of_tensors


def fingerprint(items: Vocabulary) -> str:
    """SHA-256 of a catalogue, by original ids in code order."""
    return sha256("\n".join(items.ids).encode()).hexdigest()


def save_devices(path: Path, devices: Devices) -> None:
    """Write a population to a file, with all that its users hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(_tensors_of(devices), path)


def digest_of(devices: Devices) -> str:
    """SHA-256 of all that users hold."""
    return digest_of_tensors(_tensors_of(devices))


def _tensors_of(devices: Devices) -> dict[str, Tensor]:
    tensors = {"keys": devices.keys, "indptr": devices.indptr, "items": devices.items}
    tensors["n_items"] = torch.tensor(devices.n_items)
    if devices.silo is not None:
        tensors["silo"] = devices.silo
    for name, part in devices.held_out.items():
        place = f"held_out/{name}"
        tensors |= {f"{place}/indptr": part.indptr, f"{place}/items": part.items, f"{place}/item_keys": part.item_keys}
        for number, (indptr, items) in enumerate(part.known):
            tensors |= {f"{place}/known/{number}/indptr": indptr, f"{place}/known/{number}/items": items}
        tensors |= {f"{place}/groups/{group}": codes for group, codes in part.groups.items()}
    return {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}  # files hold no views


@lru_cache(maxsize=64)
def load_devices(path: Path) -> Devices:
    """The population of a file that `save_devices` wrote. It is read once a process."""
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({error}); write it again") from error
    names = sorted({name.split("/")[1] for name in tensors if name.startswith("held_out/")})
    return Devices(
        tensors["keys"],
        tensors["indptr"],
        tensors["items"],
        int(tensors["n_items"]),
        tensors.get("silo"),
        {name: _held_out(tensors, f"held_out/{name}") for name in names},
    )


def as_one_silo(devices: Devices, column: str) -> Devices:
    """The users as one client.

    Args:
        devices: of a node.
        column: by which users are in silos.

    Raises:
        ConfigError: if the node does not know it of its users, or they are in several.
    """
    test = devices.held_out.get("test")
    codes = None if test is None else test.groups.get(column)
    if codes is None:
        raise ConfigError(
            f"population.by = '{column}': no column that {FEDERATION} names and the node's users have; write it into "
            "both"
        )
    if bool((codes != codes[0]).any()):
        raise ConfigError(
            f"population.by = '{column}': the node's users differ in it, and a node is one silo; deal users to nodes "
            "by it, or set population.kind = 'users'"
        )
    return replace(devices, silo=torch.zeros(len(devices), dtype=torch.int64))


def _held_out(tensors: dict[str, Tensor], place: str) -> HeldOutItems:
    known: list[tuple[Tensor, Tensor]] = []
    while f"{place}/known/{len(known)}/indptr" in tensors:
        here = f"{place}/known/{len(known)}"
        known.append((tensors[f"{here}/indptr"], tensors[f"{here}/items"]))
    prefix = f"{place}/groups/"
    groups = {name.removeprefix(prefix): codes for name, codes in tensors.items() if name.startswith(prefix)}
    return HeldOutItems(
        tensors[f"{place}/indptr"], tensors[f"{place}/items"], tuple(known), tensors[f"{place}/item_keys"], groups
    )
