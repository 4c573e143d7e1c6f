"""The teacher's distribution carried over to a larger vocabulary, as far as one pass over the text tells it.

The spellings of the new tokens form a tree: below an old token ``a`` stand all new tokens that begin with it, a token
below another one if its spelling continues the other's. A text of old tokens walks down that tree. At every node on its
way the teacher has said how likely each continuation is, so the probability of every node that hangs on the way is
known; what lies deeper beside the way is not. Text that passes through the node of a token without reaching a deeper
token is written with that token, so::

    q(token) = P(node) - sum of P over the next tokens below

With p(A) = 0.6, p(B | A) = 0.5 and the new token AB: q(AB) = 0.3 and q(A) = 0.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class _Node:
    token: int | None = None
    """The student's id that is spelt like this."""
    children: dict[int, "_Node"] = field(default_factory=dict)
    """By the next old id."""

    def tokens(self) -> list[int]:
        """Return the ids at and below the node."""
        own = [] if self.token is None else [self.token]
        return own + [token for child in self.children.values() for token in child.tokens()]


@dataclass
class Told:
    """What can be told apart inside of the class of the first token of a text; outcome 0 is that token itself."""

    tokens: list[list[int]]
    """The student's ids in each outcome."""
    parents: list[int] = field(default_factory=list)
    """Per edge, the number of the node that it begins at: 0 is the first token, edge i ends at node i + 1."""
    depths: list[int] = field(default_factory=list)
    """Per edge, how many old tokens stand before its own."""
    ids: list[int] = field(default_factory=list)
    """Per edge, its old id."""
    gains: list[int | None] = field(default_factory=list)
    """Per edge, the outcome that gets the probability of its end; None where no token is spelt like that."""
    losses: list[int] = field(default_factory=list)
    """Per edge, the outcome that what is gained is taken from."""

    def masses(self, conditionals: Sequence[float]) -> list[float]:
        """Return the probability of each outcome, given the first token.

        ``conditionals`` are those of the edges: the probability of its old id after the ``depths`` tokens before it.
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


class Cover:
    """The tree of all spellings; ``first`` is the id of the first new token."""

    def __init__(self, spellings: Sequence[Sequence[int]], first: int) -> None:
        self._roots: dict[int, _Node] = {}
        for token, spelling in enumerate(spellings, first):
            node = self._roots.setdefault(spelling[0], _Node(spelling[0]))
            for old in spelling[1:]:
                node = node.children.setdefault(old, _Node())
            node.token = token

    def tell(self, text: Sequence[int]) -> Told | None:
        """Return what can be told apart where ``text`` (old ids) follows; None where no new token begins like it."""
        node = self._roots.get(text[0])
        if node is None:
            return None
        told = Told([[text[0]]])
        number, outcome, depth = 0, 0, 1
        while node is not None and node.children:
            onward: tuple[_Node, int, int] | None = None
            for old, child in node.children.items():
                told.parents.append(number)
                told.depths.append(depth)
                told.ids.append(old)
                told.losses.append(outcome)
                on_the_way = depth < len(text) and text[depth] == old
                gain = None
                if child.token is not None:
                    gain = len(told.tokens)
                    told.tokens.append([child.token] if on_the_way else child.tokens())
                elif not on_the_way:
                    told.tokens[outcome].extend(child.tokens())
                told.gains.append(gain)
                if on_the_way:
                    onward = child, len(told.ids), outcome if gain is None else gain
            if onward is None:
                break
            node, number, outcome = onward
            depth += 1
        return told
