"""Membership: who the peers are, how they are connected, and how news travels between them."""
