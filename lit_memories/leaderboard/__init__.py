"""From run folders of many makers to one page of models, sorted by any number, with the ranks that data leave open."""

from lit_memories.leaderboard.main import leaderboard

__all__ = ["leaderboard"]
