"""Which fields of a `prune` go together."""

from __future__ import annotations

from collections.abc import Iterator

from sparsify.anatomy import ROLES
from sparsify.criteria.learned import Gated
from sparsify.errors import did_you_mean
from sparsify.modifiers.prune.fields import PruneFields

TOLERANCE = 1e-9

Conflict = tuple[str, str]
"""The key to blame (empty for the whole) and a sentence."""


def conflicts(prune: PruneFields) -> Iterator[Conflict]:
    """Yield what does not go together, the gravest first."""
    yield from _amount(prune)
    yield from _limits(prune)
    yield from _axes(prune)
    yield from _admm(prune)
    yield from _gates(prune)


def _amount(prune: PruneFields) -> Iterator[Conflict]:
    criterion, given = prune.criterion, prune.sparsity is not None
    explicit = prune.penalty is not None and prune.penalty.to is not None
    if criterion.keeps_zeros and given:
        yield "sparsity", f"the criterion {criterion.type!r} keeps the zeros that are there: it takes no sparsity"
    if criterion.gated and given and explicit:
        yield "penalty", "a `sparsity` steers the penalty, so it takes no `to`; leave out one of the two"
    if not criterion.keeps_zeros and not given and not (criterion.gated and explicit):
        hint = " (or a `penalty` with `to`)" if criterion.gated else ""
        yield "", f"missing key 'sparsity'{hint}"


def _limits(prune: PruneFields) -> Iterator[Conflict]:
    if prune.sparsity is None:
        return
    for what, most in (("pattern", prune.pattern.most()), ("scope", prune.scope.highest())):
        if prune.sparsity.to > most + TOLERANCE:
            yield "sparsity", f"the {what} allows a sparsity of at most {most:g}, got {prune.sparsity.to:g}"


def _axes(prune: PruneFields) -> Iterator[Conflict]:
    criterion, pattern, scope = prune.criterion, prune.pattern, prune.scope
    if criterion.keeps_zeros and pattern.period() > 1:
        yield (
            "pattern",
            f"the criterion {criterion.type!r} keeps what is there, it cannot make {pattern.label()}; "
            "leave `pattern` out",
        )
    if scope.by_row and not pattern.by_row:
        yield "scope", f"the scope {scope.type!r} ranks what is inside a row; a {pattern.type} is not"
    if pattern.multiple > 1 and not (pattern.apart or scope.type == "tensor"):
        yield "pattern", "`align` rounds what each layer keeps by itself: add `equal: true`, or write `scope: tensor`"
    if criterion.learned and prune.masking in ("project", "admm"):
        yield "masking", f"the scores of {criterion.type!r} need latent weights to learn from: leave `masking` out"
    if criterion.keeps_zeros and prune.masking in ("latent", "admm"):
        yield (
            "masking",
            f"the criterion {criterion.type!r} keeps its mask: nothing could come back; leave `masking` out",
        )


def _admm(prune: PruneFields) -> Iterator[Conflict]:
    """What `masking: admm` asks for."""
    if not prune.dense:
        return
    if prune.criterion.type != "magnitude":
        yield "criterion", f"admm ranks weights by their magnitude, not by {prune.criterion.type!r}: leave it out"
    if prune.penalty is not None and prune.penalty.to is None:
        yield "penalty", "admm has a λ of its own: write `penalty: 0.01`, or leave it out"
    if prune.penalty is not None and prune.penalty.roles:
        yield "penalty", "the λ of admm is the same for all roles: leave `roles` out"
    if prune.sparsity is not None and prune.sparsity.curve.once:
        yield "sparsity", f"admm needs time: the curve {prune.sparsity.curve.type!r} leaves it none"


def _gates(prune: PruneFields) -> Iterator[Conflict]:
    """What only criteria with gates take, and what they do not."""
    criterion = prune.criterion
    if not isinstance(criterion, Gated):
        for key in ("threshold", "finish", *(() if prune.dense else ("penalty",))):
            if getattr(prune, key) is not None:
                yield key, f"the criterion {criterion.type!r} has no gates: it takes no `{key}`"
        return
    if prune.threshold is not None and criterion.threshold is None:
        yield "threshold", f"the gates of {criterion.type!r} close by themselves: they take no threshold"
    if prune.scope.by_row:
        yield "scope", f"the gates of {criterion.type!r} have one threshold: the scope {prune.scope.type!r} has many"
    if criterion.stochastic and prune.pattern.period() > 1:
        yield (
            "pattern",
            f"the gates of {criterion.type!r} are sampled one by one, which never makes {prune.pattern.label()}",
        )
    if prune.sparsity is not None and prune.sparsity.curve.once:
        yield "sparsity", f"gates close gradually: the curve {prune.sparsity.curve.type!r} leaves them no time"
    if not prune.exact and (prune.pattern.apart or prune.pattern.multiple > 1):
        key = "equal" if prune.pattern.apart else "align"
        yield "pattern", f"`{key}` needs an exact number at the end: give a `sparsity`, and no `finish: threshold`"
    if prune.sparsity is None and prune.finish == "exact":
        yield "finish", "`exact` needs a `sparsity`"
    for role in prune.penalty.roles if prune.penalty else ():
        if role not in ROLES:
            yield "penalty", f"unknown role {role!r}{did_you_mean(role, ROLES)}"
