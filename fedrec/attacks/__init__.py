"""What an observer learns from answers: attacks, each with its success measured against chance."""

from fedrec.attacks.history import area_under_curve, guess_history

__all__ = ["area_under_curve", "guess_history"]
