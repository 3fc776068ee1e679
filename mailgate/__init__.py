"""mailgate: a self-hosted mail synchronization gateway with plan-based retention."""

__version__ = "0.1.0"
