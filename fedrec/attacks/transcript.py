"""The transcript of a run: every noised sum, read for signs of the canaries before it is passed on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from fedrec.attacks.crowd import Crowd, OneAnswer, Shadows
from fedrec.attacks.evidence import Evidence, Floats, Whitening, inner_products, measured_deviation
from fedrec.federated import Answer, Engine, Totals
from fedrec.federated.private_sums import Asked, PrivateSums
from fedrec.federated.secure_words import entries
from fedrec.privacy import BIT, Trust

_SUSPECTED = 0.1
"""Noise that is looked for, in units of what was measured. Where canaries share rows, each drowns in the coins of the
others if answers are not clipped; who expects that looks at what is a canary's own."""


class EndOfTranscript(Exception):  # noqa: N818 (it says what happened, and is no mistake)
    """Every planned release has been made."""


class Transcript:
    """Noised sums that are read as they are made.

    Args:
        sums: make the releases, perhaps with a defect.
        crowd: the engine that they are of.
        shadows: the canaries' devices.
        included: [m] bool, the coins; read where a canary's answer is one of two, and by nothing that guesses.
        hidden: q, the probability of being drawn for a round, if the sample is hidden; None if it can be seen.
        whitening: of noise that is correlated over rounds; None if none is.
        planned: number of releases, with the last of which the run ends.

    Attributes:
        trust: that of the sums.
        releases: number of releases that were read.
        untouched: [m] minus the number of entries that a canary would change and that were released as if it had not.
        strength: [m] Σ ‖c_u‖²/s² over releases: the squared distance, in deviations, of a canary's being in and out.
    """

    def __init__(
        self,
        sums: PrivateSums,
        crowd: Crowd,
        shadows: Shadows,
        included: Tensor,
        *,
        hidden: float | None,
        whitening: Whitening | None,
        planned: int,
    ) -> None:
        self.trust: Trust = sums.trust
        self.releases = 0
        nothing = torch.zeros(len(shadows), dtype=torch.float64)
        self.untouched, self.strength = nothing, nothing.clone()
        self._sums, self._crowd, self._shadows, self._included = sums, crowd, shadows, included
        self._hidden, self._whitening, self._planned = hidden, whitening, planned
        self._claimed, self._measured = Evidence.none(len(shadows)), Evidence.none(len(shadows))
        self._ratios, self._round = (nothing.clone(), nothing.clone()), 0

    @property
    def name(self) -> str:
        """That of the sums."""
        return self._sums.name

    def sum(self, engine: Engine, asked: Asked) -> Totals:
        """The release, after it was read.

        Raises:
            EndOfTranscript: instead of the last one. What the server makes of it is its own business.
        """
        if self._hidden is not None and asked.round != self._round:
            self._end_round(self._hidden)
        self._round = asked.round
        if self.trust == "local":
            totals = self._single_answers(asked)
        else:
            totals = self._sums.sum(engine, asked)
            self._read(asked, totals.sums, self._crowd.sums)
        self.releases += 1
        if self.releases == self._planned:
            raise EndOfTranscript
        return totals

    def likelihoods(self) -> tuple[Tensor, Tensor]:
        """[m] log of the likelihood ratio of in and out, of everything that was released: two of them.

        The first takes every release to have the noise that it should have. The second measures each one's noise where
        no canary adds anything.
        """
        if self._hidden is None:
            return self._claimed.log_ratios(0.5), self._measured.log_ratios(0.5, _SUSPECTED)
        self._end_round(self._hidden)
        return self._ratios

    def _end_round(self, drawn: float) -> None:
        """A canary that is in is drawn with probability q: the round's ratio is (1 − q) + q e^ℓ."""
        for total, evidence, noise in zip(
            self._ratios, (self._claimed, self._measured), (1.0, _SUSPECTED), strict=True
        ):
            ratios = evidence.log_ratios(drawn / 2, noise) + math.log(drawn)
            total += torch.logaddexp(torch.full_like(ratios, math.log1p(-drawn)), ratios)
        self._claimed, self._measured = Evidence.none(len(self._shadows)), Evidence.none(len(self._shadows))

    def _read(self, asked: Asked, released: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> None:
        added = self._shadows.answers(asked)
        for part in asked.parts:
            deviation = part.noise_multiplier * part.clip
            for name in part.tables:
                beyond: Floats = (released[name].double() - known[name].double()).view(-1).numpy()
                matrix = added[name]
                self.untouched -= torch.from_numpy(_pattern(matrix) @ (beyond == 0).astype(np.float64))
                if self._whitening is not None and asked.correlate is not None and name != BIT:
                    matrix, beyond = self._whitening.next(name, matrix, beyond)
                gram, read = inner_products(matrix), matrix @ beyond
                found = measured_deviation(matrix, beyond, deviation, symmetric=name in asked.query.symmetric)
                self._claimed.add(gram, read, deviation)
                self._measured.add(gram, read, found)
                self.strength += torch.from_numpy(gram.diagonal().copy()) / deviation**2

    def _single_answers(self, asked: Asked) -> Totals:
        """The known users' noised answers, added up, and those of the canaries one by one."""
        totals = self._sums.sum(self._crowd.known, asked)
        sums = dict(totals.sums)
        for answer in self._crowd.planted.answers(asked.query, round=asked.round, phase=asked.phase):
            if answer.refused:
                continue
            canary = answer.user // self._shadows.members
            sends = OneAnswer(answer, otherwise=not bool(self._included[canary]))
            sent = self._sums.sum(sends, asked).sums  # noise goes by the key of its client
            self._read_one(asked, canary, answer, sent)
            sums = {name: total + sent[name] for name, total in sums.items()}
        return replace(totals, sums=sums)

    def _read_one(self, asked: Asked, canary: int, answer: Answer, sent: Mapping[str, Tensor]) -> None:
        """As `_read`, of an answer that is one of two: whose difference counts, beyond the other one."""
        query = asked.query
        ((inside,), (outside,)) = (
            OneAnswer(answer, otherwise).answers(query, round=asked.round, clip=asked.clip)
            for otherwise in (False, True)
        )
        for part in asked.parts:
            for name in part.tables:
                if name == BIT:  # the same of both
                    continue
                places, own = entries(inside.contributions[name], query.tables[name][1])
                other = torch.zeros(query.tables[name], dtype=torch.float64)
                outside.contributions[name].add_to(other, None)
                alternative, seen = (table.reshape(-1).numpy()[places] for table in (other, sent[name].double()))
                apart, deviation = own - alternative, 2 * part.noise_multiplier * part.clip
                strength = float(apart @ apart) / deviation**2
                for evidence in (self._claimed, self._measured):
                    evidence.gram[canary, canary] += strength
                    evidence.read[canary] += float((seen - alternative) @ apart) / deviation**2
                self.strength[canary] += strength
                self.untouched[canary] -= float(((seen == 0) & (own != 0)).sum())


def _pattern(matrix: csr_array) -> csr_array:
    """1 where a sparse matrix is not zero."""
    return csr_array((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
