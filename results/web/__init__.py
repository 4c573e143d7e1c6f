"""Pages that open from disk: the page of a run, the leaderboard, curves and plots."""
