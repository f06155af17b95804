"""`FlowerEngine`: an engine whose users are on the nodes of a Flower federation.

A query goes to every node, and what the nodes answer is added up as it arrives. An answer that does not keep to the
protocol is refused and named, and the round goes on with the others; a node that is lost is like users who took no part
in a round. Private state stays on the nodes: a checkpoint here holds the moment that they are rolled back to.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from flwr.app import RecordDict
from torch import Tensor

from fedrec.errors import ConfigError, RunError
from fedrec.federated import ParticipationConfig, Query, Totals
from fedrec.federated.answers import Answer
from fedrec.federated.private_sums import PrivateSums
from fedrec.flower.adding import Sums, empty_sums
from fedrec.flower.client import DRAW, SUM
from fedrec.flower.node import require_own_draw
from fedrec.flower.post import Post, Roll
from fedrec.flower.records import NodeAnswer, answer_from_record, require_clipped, size
from fedrec.flower.requests import (
    Moment,
    Request,
    drawn_from_record,
    moments,
    request_alone,
    request_to_record,
)
from fedrec.privacy import Clip, Mechanism, PrivacyConfig, Randomness, UniformSource


class FlowerEngine:
    """The sum over all nodes of a federation.

    Args:
        post: carries the messages.
        roll: the nodes.
        session: names this fit; no two fits may share it.
        seed: of the run's random streams.
        participation: who takes part in a round; each node draws its own users.
        randomness: what they are drawn from.
        silos: whether clients are silos, so that no guarantee about users can be given.
        silo_by: the user column that is the same for all users of a node, where each node is one silo.
        rollbacks: how many of the last moments that `tensors` was asked for nodes can be rolled back to.

    Raises:
        ConfigError: if nodes cannot draw such a participation alone.
    """

    def __init__(
        self,
        post: Post,
        roll: Roll,
        *,
        session: str,
        seed: int,
        participation: ParticipationConfig | None = None,
        randomness: Randomness = "seeded",
        silos: bool = False,
        silo_by: str = "",
        rollbacks: int = 2,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.participation = require_own_draw(participation or ParticipationConfig())
        self.roll = roll
        self.silos = silos or bool(silo_by)
        self._silo_by = silo_by
        self.post = post
        self._session, self._seed = session, seed
        self._randomness = randomness
        self._clock = clock
        self._attempt = clock()  # later than any before it, also than those of a server that was killed
        self._base: Moment = (0, 0)
        self._asked: tuple[Moment, Moment] | None = None
        self._kept: list[Moment] = []
        self._rollbacks = rollbacks

    @property
    def expected(self) -> float:
        """q|U|."""
        return self.participation.rate * self.roll.n_users

    @property
    def clients(self) -> dict[int, int] | None:
        """How many clients each node has; None where they are silos that only the nodes can tell apart."""
        if self.silos and not self._silo_by:
            return None
        return {node: 1 if self._silo_by else greeting.users for node, greeting in self.roll.nodes.items()}

    def sum(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Totals:
        """The sum of the participants' contributions on all nodes.

        Raises:
            RunError: if no node answers, so that there is nobody to go on with.
        """
        request = self.request((round, phase), clip)
        sums = empty_sums(query, clipped=clip is not None)

        def check(answer: NodeAnswer) -> None:
            if clip is not None:
                require_clipped(answer, clip, 1 if self._silo_by else None)

        totals = self.gather(query, request, request_to_record(query, request), sums, check)
        dtype = query.dtype if clip is None else torch.float64
        return replace(totals, sums={name: total.to(dtype) for name, total in totals.sums.items()})

    def gather(
        self,
        query: Query,
        request: Request,
        content: RecordDict,
        sums: Sums,
        check: Callable[[NodeAnswer], None],
    ) -> Totals:
        """Send all nodes a message and add up what they answer.

        Args:
            query, request: what it asks.
            content: of the message.
            sums: of nothing yet, for each table of an answer.
            check: raises a DataError for an answer that is not to be added.

        Returns:
            The sums, float64, and what they took.

        Raises:
            RunError: if no node answers.
        """
        place, tables = f"query '{query.kind}'", {name: total.shape for name, total in sums.items()}
        counts, refusals, failed = Counter[str](), Counter[str](), Counter[str]()
        up = 0

        def read(node: int, reply: RecordDict) -> NodeAnswer:
            answer = answer_from_record(reply, query, self.roll.nodes[node].users, self.post.largest, tables)
            check(answer)
            return answer

        asked = dict.fromkeys(self.roll.nodes, content)
        for _, answer, reply in self.post.hear(
            SUM, asked, read, question=query.kind, request=request, place=place, failed=failed
        ):
            for name, part in answer.parts.items():
                sums[name].add(part)
            counts.update(answer.counts)
            refusals.update(answer.refused)
            up += size(reply)
        if sum(failed.values()) == len(self.roll.nodes):
            raise RunError(
                f"round {request.round}, {place}: none of {len(self.roll.nodes)} nodes answered "
                f"({'; '.join(failed)}); see that they run, then resume"
            )
        return Totals(
            {name: found.total() for name, found in sums.items()},
            answered=counts["answered"],
            clipped=counts["clipped"],
            refused=dict(refusals),
            bytes_up=up,
            bytes_down=size(content) * len(self.roll.nodes),
            delayed=counts["delayed"],
            late=counts["late"],
            nodes=len(self.roll.nodes),
            failed=dict(failed),
        )

    def answers(self, query: Query, *, round: int, phase: int = 0, clip: Clip | None = None) -> Iterator[Answer]:
        """Refused: nodes answer with sums.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"query '{query.kind}' asks for single answers, and nodes answer with the sums of their users; run this "
            "method with engine.kind = 'local'"
        )

    def private_sums(
        self, privacy: PrivacyConfig, mechanism: Mechanism, source: UniformSource, clients: int
    ) -> PrivateSums:
        """As `OverNodes.private_sums` says."""
        from fedrec.flower.masked import MaskedNodes  # they are built on this module
        from fedrec.flower.noised import MaskedNoisedNodes, NoisedNodes

        if privacy.trust == "secagg":
            return MaskedNodes(self, mechanism, source, privacy.answering)
        if privacy.trust == "distributed":
            return MaskedNoisedNodes(self, source, clients, privacy.answering, privacy.executed)
        return NoisedNodes(self, mechanism, source, privacy.executed)

    def taking_part(self, request: Request) -> tuple[dict[int, int], Counter[str]]:
        """How many clients of each node take part in a round; and what keeps nodes from saying so.

        Args:
            request: of the round.
        """
        failed = Counter[str]()
        heard = self.post.hear(
            DRAW,
            {node: request_alone(request) for node in self.roll.nodes},
            lambda node, reply: drawn_from_record(reply, self.roll.nodes[node].users),
            question="draw",
            request=request,
            place="draw",
            failed=failed,
        )
        return dict(sorted((node, clients) for node, clients, _ in heard)), failed

    def tensors(self) -> dict[str, Tensor]:
        """The moment that nodes are rolled back to, and earlier ones; they keep their users' state of each."""
        if self._base not in self._kept:
            self._kept = [*self._kept, self._base][-self._rollbacks :]
        return {"moment": torch.tensor(self._base), "kept": torch.tensor(self._kept)}

    def passed(self, moment: Moment) -> None:
        """Go on from a moment whose sum is known already: the nodes answered it before this process was started."""
        self._asked, self._base = (moment, self._base), moment

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Roll the nodes back to a checkpoint, with the next query."""
        round, phase = tensors["moment"].tolist()
        self._base, self._asked = (round, phase), None
        self._kept = [(round, phase) for round, phase in tensors["kept"].tolist()]
        self._attempt = max(self._clock(), self._attempt + 1)

    def request(self, moment: Moment, clip: Clip | None) -> Request:
        """What goes with the query of a moment. A query asked again starts from where it started before.

        Raises:
            ConfigError: if it is of an earlier moment than the last one.
        """
        if self._asked is not None and self._asked[0] == moment:
            base = self._asked[1]
        else:
            base = self._base
            self._asked = (moment, base)
        if not base < moment:
            raise ConfigError(
                f"round {moment[0]}, phase {moment[1]} was asked for after round {base[0]}, phase {base[1]}; restore "
                "the checkpoint of that round first"
            )
        self._base = moment
        return Request(
            session=self._session,
            attempt=self._attempt,
            seed=self._seed,
            round=moment[0],
            phase=moment[1],
            base_round=base[0],
            base_phase=base[1],
            keep=moments(frozenset(kept for kept in self._kept if kept <= base)),
            participation=self.participation.model_dump_json(),
            randomness=self._randomness,
            clip=0.0 if clip is None else clip.norm,
            silo_by=self._silo_by,
            tables=json.dumps(dict(clip.tables)) if clip is not None and clip.tables else "",
        )
