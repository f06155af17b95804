"""Recommenders that exist only centrally, the protocol that every recommender fills, and the training loop."""
