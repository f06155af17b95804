"""Canaries: users whose presence an observer with every other knowledge tries to read from what an arm releases.

A canary's history is made of items that nobody else has; where the guarantee is about silos, a canary is a silo of
users of the same such items. Each is in or out by a coin of its own. The observer knows all the others and what they
add to every sum, every canary's answer, were it there (it keeps a shadow of each one's device), and sees every release
of the run. What is left unknown are the coins, the noise and the sample: just what the guarantee rests on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedrec.attacks.attack import Target
from fedrec.attacks.crowd import Crowd, Shadows
from fedrec.attacks.defects import Defect, require_plantable, with_defect
from fedrec.attacks.evidence import Whitening
from fedrec.attacks.transcript import EndOfTranscript, Transcript
from fedrec.errors import ConfigError
from fedrec.federated import Ask, Devices, HeldOutItems, LocalEngine, ParticipationConfig
from fedrec.federated.method import NobodyAnswered
from fedrec.federated.population import silos_of
from fedrec.federated.protection import protect
from fedrec.federated.queries import Evaluate
from fedrec.privacy import Correlation, PrivacyConfig, bit_of
from fedrec.privacy.continual import square_root
from fedrec.streams import Streams, key_of, keys_of

METRIC = "ndcg@10"
"""What looks at the validation part ask for; a guarantee covers any metric in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What the observer makes of each canary after a whole run.

    Attributes:
        likelihood: [m] log of the likelihood ratio of in and out, of everything that was released.
        suspicious: [m] the same, with the noise as it is found, and answers larger than they should be.
        untouched: [m] minus the number of entries that a canary would change and that were released as if it had not,
            summed over releases; noise on every entry leaves none.
        included: [m] bool, the truth.
        releases: number of releases that were seen.
        strength: [m] the squared distance, in deviations of the noise, between a canary's being in and out.
    """

    likelihood: Tensor
    suspicious: Tensor
    untouched: Tensor
    included: Tensor
    releases: int
    strength: Tensor

    @property
    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """What guesses go by."""
        return self.likelihood, self.suspicious, self.untouched

    @classmethod
    def together(cls, runs: Sequence[Scores]) -> Scores:
        """Those of several runs, one after the other."""
        return cls(
            torch.cat([run.likelihood for run in runs]),
            torch.cat([run.suspicious for run in runs]),
            torch.cat([run.untouched for run in runs]),
            torch.cat([run.included for run in runs]),
            sum(run.releases for run in runs),
            torch.cat([run.strength for run in runs]),
        )


@dataclass(frozen=True)
class Planting:
    """How canaries are planted.

    Attributes:
        canaries: m, how many; about half of them are in.
        items: how many items of its own each has; they are added to the catalogue.
        members: users of each, where the guarantee is about silos.
        defect: what is planted in the mechanism.
        times: how often each interaction was recorded, of everybody.
        known: how many of the known users there are; None is all. A guarantee is about every data set.
        run: number of the run, each of which has coins, noise and a sample of its own. That of run 0 is the arm's.
    """

    canaries: int
    items: int
    members: int = 1
    defect: Defect = "none"
    times: int = 1
    known: int | None = None
    run: int = 0


def play(target: Target, planting: Planting) -> Scores:
    """Play an arm's private rounds with planted canaries, and score each of them.

    Args:
        target: the arm, with a guarantee.
        planting: of the canaries.

    Raises:
        ConfigError: if the arm has no guarantee, or the defect is of another mechanism than its own.
    """
    privacy, schedule = target.recommender.privacy, target.schedule
    if privacy is None or schedule is None:
        raise ConfigError("canaries are scored by the noise of a guarantee, and the arm has none; give it privacy")
    require_plantable(planting.defect, privacy, schedule, planting.members)
    streams, participation = target.streams, target.recommender.participation
    # What a hidden sample is worth shows over many runs only if each draws it afresh, as it draws its noise.
    sample = Streams(key_of(f"{target.seed}/canary/sample/{planting.run}")) if planting.run else streams
    included = torch.from_numpy(streams.numbers(f"canary/coins/{planting.run}").random(planting.canaries) < 0.5)
    known, planted = _devices(target, planting, privacy)
    taking_part = planted
    if privacy.trust in ("central", "secagg"):  # otherwise those who are out answer something else
        taking_part = planted.take(torch.nonzero(included.repeat_interleave(_members(planting, privacy))).flatten())
    by_user = planting.defect == "users-clipped"
    crowd = Crowd(
        LocalEngine(replace(known, silo=None) if by_user else known, streams, participation, sample=sample),
        LocalEngine(replace(taking_part, silo=None) if by_user else taking_part, streams, participation, sample=sample),
        known,
        participation.rate * (len(known) + len(planted) / 2),
        ~included if privacy.trust == "distributed" else included[:0],
        _members(planting, privacy),
    )
    hidden = None
    if schedule.sampling == "poisson" and schedule.rate < 1:
        hidden = participation.rate * (1 - participation.dropout) * (1 - participation.straggler)
    seen = participation if hidden is None else ParticipationConfig()
    shadows = Shadows(
        LocalEngine(planted, streams, seen, sample=sample, threads=1),
        _members(planting, privacy),
        planting.times,
    )
    clients = len(known.client_keys) + planting.canaries
    private = protect(crowd, schedule, privacy, target.noise(f"audit/{planting.defect}/{planting.run}"), clients)
    correlation = None if privacy.continual is None else Correlation.of(privacy.continual, schedule)[1]
    bits = {bit_of(planned.query) for planned in schedule.releases if planned.adaptive}
    transcript = Transcript(
        with_defect(
            planting.defect,
            private.sums,
            times=planting.times,
            sharing=participation.rate * clients,
            correlation=correlation,
        ),
        crowd,
        shadows,
        included,
        hidden=hidden,
        whitening=None if correlation is None else Whitening(square_root(correlation.band)),
        planned=sum(release.query not in bits for release in private.planned().releases),
    )
    private.sums = transcript
    every = None if privacy.validation is None else target.method.stopping.every
    state = target.method.start(target.federation(len(known) + len(planted) // 2, known.n_items))
    with suppress(EndOfTranscript):
        for number in range(1, target.method.rounds + 1):
            ask = Ask(private, number)
            with suppress(NobodyAnswered):
                state = target.method.round(state, ask)
            if every is not None and number % every == 0:
                ask(Evaluate.of(target.method, state, "valid", [METRIC], target.seed, everyone=False))
    return Scores(*transcript.likelihoods(), transcript.untouched, included, transcript.releases, transcript.strength)


def _members(planting: Planting, privacy: PrivacyConfig) -> int:
    return planting.members if privacy.unit == "silo" else 1


def _devices(target: Target, planting: Planting, privacy: PrivacyConfig) -> tuple[Devices, Devices]:
    """The known users and the canaries, over one catalogue."""
    train, items, members = target.train, planting.items, _members(planting, privacy)
    n_items, n_users = train.n_items + planting.canaries * items, planting.canaries * members
    own = torch.arange(train.n_items, n_items).view(-1, items).repeat_interleave(members, dim=0).flatten()
    keys = keys_of(f"canary {number}" for number in range(n_users))
    silo = silos_of(target.recommender.population, train, target.seed)
    of_canaries = None if silo is None else torch.arange(planting.canaries).repeat_interleave(members)
    known = Devices(train.users.keys, *train.csr, n_items, silo)
    if planting.known is not None:
        known = known.take(torch.arange(min(planting.known, train.n_users)))
    planted = Devices(keys, torch.arange(n_users + 1) * items, own, n_items, of_canaries)
    if privacy.validation is None:
        return known, planted
    # A canary holds out an item of the catalogue, which it does not train on.
    item_keys = torch.cat(
        [train.items.keys, keys_of(f"canary item {number}" for number in range(n_items - train.n_items))]
    )
    users = torch.arange(n_users)
    of_known = HeldOutItems(*target.valid.csr, (), item_keys)
    held_out = HeldOutItems(torch.arange(n_users + 1), users % train.n_items, (), item_keys)
    return (
        replace(known, held_out={"valid": of_known.take(torch.arange(len(known)))}),
        replace(planted, held_out={"valid": held_out}),
    )
