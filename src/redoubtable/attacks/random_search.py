"""Random search: propose a change of the strongest image so far, and keep it where it is better."""

from collections.abc import Callable

import torch
from torch import Tensor

from redoubtable.attacks.search import Search
from redoubtable.parts import facts_of
from redoubtable.types import Images

Propose = Callable[[int, Tensor, Images], Images]
"""Of the number of the query, the (M,) examples it is for and their strongest images: new ones."""

REFRESH = 10
"""On a random model every how many queries the kept images are looked at again."""


def random_search(search: Search, start: Images, propose: Propose, queries: int, eot: int) -> None:
    """Spend the queries of each open example of `search` on proposals.

    On a random model the value of a kept image is the largest of many noisy ones and so too large;
    every tenth query goes into a new look at it, or a lucky draw would stay for ever.

    Args:
        search: where images are offered; it knows who is finished.
        start: (N, C, H, W) the first proposals.
        propose: makes the next ones, all of them legal.
        queries: answers asked for per example, each a mean over `eot` draws.
        eot: random draws that an answer is averaged over.

    Raises:
        ValueError: `queries` is below 1.
    """
    if queries < 1:
        raise ValueError(f"`queries` must be at least 1, got {queries}")
    forgets = facts_of(search.model).stochastic
    index = search.open
    new = start[index]
    for query in range(1, queries + 1):
        if forgets and query % REFRESH == 0:
            search.revalue(index, search.look(search.best[index], eot))
            continue
        index = index[search.offer(index, new, search.look(new, eot))]
        if len(index) == 0 or query == queries:
            return
        new = propose(query, index, search.best[index])


def random_signs(*shape: int, like: Tensor) -> Tensor:
    """Return -1 and 1, each with probability one half."""
    return torch.randint(0, 2, shape, device=like.device).to(like.dtype) * 2 - 1


def other_signs(signs: Tensor, refused: Tensor) -> Tensor:
    """Turn some signs where all of a group are refused.

    Args:
        signs: (..., C, 1) or any shape; the groups lie along axis 1.
        refused: the shape of `signs` with axis 1 of length 1, bool.
    """
    turned = torch.rand_like(signs) < 0.5
    surely = torch.rand_like(signs).argmax(1, keepdim=True)
    turned = turned.scatter(1, surely, torch.ones_like(surely, dtype=torch.bool))
    return torch.where(turned & refused, -signs, signs)
