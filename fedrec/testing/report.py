"""What running the checks of a contract found."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.errors import ModelError


@dataclass(frozen=True)
class Finding:
    """One check: its name, and what it found wrong; "" if nothing."""

    check: str
    problem: str = ""


@dataclass(frozen=True)
class CheckReport:
    """What the checks found, in their order."""

    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The checks that found something wrong."""
        return tuple(finding for finding in self.findings if finding.problem)

    def raise_if_failed(self) -> None:
        """Raise a ModelError that names every check which failed, and why."""
        if self.failed:
            problems = "; ".join(f"{finding.check}: {finding.problem}" for finding in self.failed)
            raise ModelError(f"{len(self.failed)} of {len(self.findings)} checks failed: {problems}")

    def __str__(self) -> str:
        return "\n".join(
            f"{'FAIL' if finding.problem else 'ok':<5}{finding.check}"
            + (f": {finding.problem}" if finding.problem else "")
            for finding in self.findings
        )
