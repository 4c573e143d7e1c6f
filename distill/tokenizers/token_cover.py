"""Token cover: probabilities of new tokens, as far as one pass over the old tokens determines them.

The spellings of the new tokens form a forest. Below an old token ``a`` are all new tokens that begin with it; a token
is below another one if its spelling extends the other's. A text of old tokens follows a path in this forest. At every
node of the path, the teacher has computed the probability of each continuation, so the probability of every child of
the path is known, but not that of deeper nodes beside it. Text that passes the node of a token without reaching a
deeper token is encoded with that token, hence::

    q(token) = P(node) - sum of P over the next tokens below

With p(A) = 0.6, p(B | A) = 0.5 and the new token AB: q(AB) = 0.3 and q(A) = 0.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class _Node:
    token: int | None = None
    """Student id with this spelling, if any."""
    children: dict[int, "_Node"] = field(default_factory=dict)
    """Child nodes by the next old id."""

    def tokens(self) -> list[int]:
        """Return the ids at and below the node."""
        own = [] if self.token is None else [self.token]
        return own + [token for child in self.children.values() for token in child.tokens()]


@dataclass
class TokenOutcomes:
    """The distinguishable outcomes within the class of a text's first token; outcome 0 is that token itself."""

    tokens: list[list[int]]
    """Student ids of each outcome."""
    parents: list[int] = field(default_factory=list)
    """For each edge, the number of the node it starts from: 0 is the first token; edge i ends at node i + 1."""
    depths: list[int] = field(default_factory=list)
    """For each edge, the number of old tokens before its own."""
    ids: list[int] = field(default_factory=list)
    """For each edge, its old id."""
    gains: list[int | None] = field(default_factory=list)
    """For each edge, the outcome that receives the probability of its end node; None if no token has this spelling."""
    losses: list[int] = field(default_factory=list)
    """For each edge, the outcome from which this probability is subtracted."""

    def masses(self, conditionals: Sequence[float]) -> list[float]:
        """Return the probability of each outcome, given the first token.

        ``conditionals`` holds, for each edge, the probability of its old id after the ``depths`` tokens before it.
        """
        reached = [1.0]
        found = [1.0] + [0.0] * (len(self.tokens) - 1)
        for parent, gain, loss, conditional in zip(self.parents, self.gains, self.losses, conditionals, strict=True):
            mass = reached[parent] * conditional
            reached.append(mass)
            if gain is not None:
                found[gain] += mass
                found[loss] -= mass
        return [max(0.0, mass) for mass in found]


class TokenCover:
    """The forest of all spellings; ``first`` is the id of the first new token."""

    def __init__(self, spellings: Sequence[Sequence[int]], first: int) -> None:
        self._roots: dict[int, _Node] = {}
        for token, spelling in enumerate(spellings, first):
            node = self._roots.setdefault(spelling[0], _Node(spelling[0]))
            for old in spelling[1:]:
                node = node.children.setdefault(old, _Node())
            node.token = token

    def outcomes(self, text: Sequence[int]) -> TokenOutcomes | None:
        """Return the distinguishable outcomes where ``text`` (old ids) follows; None without new tokens there."""
        node = self._roots.get(text[0])
        if node is None:
            return None
        found = TokenOutcomes([[text[0]]])
        number, outcome, depth = 0, 0, 1
        while node is not None and node.children:
            onward: tuple[_Node, int, int] | None = None
            for old, child in node.children.items():
                found.parents.append(number)
                found.depths.append(depth)
                found.ids.append(old)
                found.losses.append(outcome)
                on_the_way = depth < len(text) and text[depth] == old
                gain = None
                if child.token is not None:
                    gain = len(found.tokens)
                    found.tokens.append([child.token] if on_the_way else child.tokens())
                elif not on_the_way:
                    found.tokens[outcome].extend(child.tokens())
                found.gains.append(gain)
                if on_the_way:
                    onward = child, len(found.ids), outcome if gain is None else gain
            if onward is None:
                break
            node, number, outcome = onward
            depth += 1
        return found
