"""`Account`: what a node's users have spent of what its operator grants, over all runs, in a file of its state folder.

Its header says what the user has spent who has spent most. It is written before the answer that it is charged for is
sent: a process that dies in between has charged for nothing, and never the other way round. The file beside it that is
locked meanwhile says that there is one, so that an account which was lost is missed and not begun anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from torch import Tensor

from fedrec.errors import DataError, PrivacyError
from fedrec.flower.stores import alone, write_whole
from fedrec.privacy.grant import Grant

_KEYS, _SPENT = "keys", "spent"

Costs = npt.NDArray[np.float64]
"""[n, 2] Σ 1/σ² of each user: with Gaussian noise, and with discrete noise under masks."""

_BEGUN = "spent.safetensors has been written; delete this file as well to count from zero\n"


class Account:
    """What users have spent.

    Args:
        folder: of the node.
        grant: what each of them may spend.
    """

    def __init__(self, folder: Path, grant: Grant) -> None:
        self.grant = grant
        self._folder = folder
        self._path = folder / "spent.safetensors"
        self._lock = folder / "spent.lock"

    def charge(self, keys: Tensor, cost: float, *, discrete: bool) -> None:
        """Write down that users spend so much more.

        Args:
            keys: [m] int64 of the users, each once.
            cost: 1/σ² of the release; 0 for one that was paid before.
            discrete: whether its noise is discrete, under masks.

        Raises:
            PrivacyError: if one of them would have spent more than is granted; nothing is charged then.
            DataError: if the file is damaged or was deleted, or cannot be written.
        """
        if not cost:
            return
        paying = np.unique(keys.cpu().numpy())
        with alone(self._lock):  # which the node's processes share, for several runs at a time
            known, spent = self._read()
            users = np.union1d(known, paying)
            after = np.zeros((len(users), 2))
            after[np.searchsorted(users, known)] = spent
            places = np.searchsorted(users, paying)
            after[places, int(discrete)] += cost
            self._require_granted(after[places])
            most = f"epsilon = {self._most(after):.4g} at delta = {self.grant.delta:g}"
            write_whole(self._path, safetensors.numpy.save({_KEYS: users, _SPENT: after}, {"most": most}))
            if not self._lock.stat().st_size:
                self._lock.write_text(_BEGUN, encoding="utf-8")

    def _require_granted(self, after: Costs) -> None:
        if not all(self.grant.allows(gaussian, discrete) for gaussian, discrete in _largest(after)):
            raise PrivacyError(
                f"the operator grants epsilon = {self.grant.epsilon:.4g}, and with this sum it would be "
                f"{self._most(after):.4g} at delta = {self.grant.delta:g}; that is what all runs come to for a user of "
                "this node: ask for less, or have more granted"
            )

    def _most(self, spent: Costs) -> float:
        return max((self.grant.spent(gaussian, discrete) for gaussian, discrete in _largest(spent)), default=0.0)

    def _read(self) -> tuple[npt.NDArray[np.int64], Costs]:
        if not self._path.exists():
            if self._lock.stat().st_size:
                raise DataError(
                    f"the account of what the node's users have spent is gone; restore {self._path}, or delete "
                    f"{self._lock.name} as well to count from zero"
                )
            return np.empty(0, dtype=np.int64), np.empty((0, 2))
        try:
            found = safetensors.numpy.load_file(self._path)
            keys, spent = found[_KEYS], found[_SPENT]
        except (OSError, safetensors.SafetensorError, KeyError) as error:
            raise self._damaged(str(error)) from error
        whole = keys.dtype == np.int64 and keys.ndim == 1 and len(np.unique(keys)) == len(keys)
        if not (whole and spent.shape == (len(keys), 2) and bool((np.isfinite(spent) & (spent >= 0)).all())):
            raise self._damaged("not of each user two finite numbers from 0")
        return keys, spent

    def _damaged(self, how: str) -> DataError:
        return DataError(f"the account of what the node's users have spent is damaged; restore {self._path} ({how})")


def _largest(spent: Costs) -> list[tuple[float, float]]:
    """The users who have spent most, of those with Gaussian noise alone and of the others."""
    found = []
    for some in (spent[spent[:, 1] == 0], spent[spent[:, 1] > 0]):
        if len(some):
            gaussian, discrete = some[some.sum(axis=1).argmax()]
            found.append((float(gaussian), float(discrete)))
    return found
