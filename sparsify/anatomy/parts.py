"""The parts of a model: layers, their attention and feed-forward blocks, embeddings, task head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sparsify.layers import Weight

DEFAULT = "default"

ROLES = (
    DEFAULT,
    "attention",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "ffn",
    "ffn.up",
    "ffn.gate",
    "ffn.down",
    "experts",
    "router",
    "conv",
    "shortcut",
    "embeddings",
    "task_head",
)
"""What `targets` may say instead of names. `default` is every weight inside the layers, but for those of routers."""


@dataclass(frozen=True)
class Attention:
    """An attention block. Rows of query, key and value, and columns of output, belong to heads, in order.

    Where each head's rows of query, key and value lie together in one matrix (`interleaved`), all three are that one.
    """

    name: str
    query: Weight
    key: Weight
    value: Weight
    output: Weight
    heads: int
    """Query heads."""

    groups: int
    """Key and value heads; fewer than `heads` with grouped-query attention."""

    doubt: str = ""
    """Why its heads cannot be pruned as wholes (they could not be verified, say); empty where they can."""

    least: int = 0
    """Heads (groups, with grouped key and value) that the architecture cannot do without."""

    shared: str = ""
    """Blocks of one `shared` name can only lose the same heads, as T5's, which share a table of biases."""

    @property
    def interleaved(self) -> bool:
        """Whether the rows of each head's (or group's) query, key and value lie together in one matrix."""
        return self.query == self.key

    @property
    def head_size(self) -> int:
        """The features of a head."""
        return self.output.geometry.columns // self.heads

    @property
    def projections(self) -> tuple[Weight, ...]:
        """The matrices whose rows belong to heads, each once."""
        return (self.query,) if self.interleaved else (self.query, self.key, self.value)

    def roles(self) -> Iterator[tuple[str, Weight]]:
        """Yield (role, weight)."""
        names = ("attention",) if self.interleaved else ("attention.query", "attention.key", "attention.value")
        yield from zip(names, self.projections, strict=True)
        yield "attention.output", self.output


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward block. A neuron is a row of up (and gate) and a column of down."""

    name: str
    up: Weight
    """Where gate and up alternate in one matrix (GPT-OSS), that matrix: two neighbouring rows are a neuron."""

    down: Weight
    gate: Weight | None = None
    doubt: str = ""
    """Why its neurons cannot be pruned as wholes; empty where they can."""

    @property
    def neurons(self) -> int:
        """The number of neurons."""
        return self.down.geometry.columns

    def roles(self) -> Iterator[tuple[str, Weight]]:
        """Yield (role, weight)."""
        yield "ffn.up", self.up
        if self.gate is not None:
            yield "ffn.gate", self.gate
        yield "ffn.down", self.down


@dataclass(frozen=True)
class Experts:
    """The experts of a layer: feed-forward blocks of which every token takes some."""

    name: str
    count: int
    members: tuple[FeedForward, ...]
    """In order; empty where their form is not known."""

    stacks: tuple[Weight, ...]
    """The parameters that hold all experts; empty where each is a module of its own."""

    routers: tuple[Weight, ...]
    least: int
    """How many a token goes to."""


@dataclass(frozen=True)
class Layer:
    """One of the repeated blocks of a model."""

    name: str
    stack: str
    """The name of what repeats: an encoder and a decoder are two stacks."""

    index: int
    """Place in the stack, from 0."""

    attentions: tuple[Attention, ...]
    feed_forwards: tuple[FeedForward, ...]
    others: tuple[tuple[str, Weight], ...]
    """(role, weight); the role is empty for weights that only belong to the layer."""

    origin: int
    """Its place in the stack before any layer was dropped; kept by the module, so copies of the model have it too."""

    depths: tuple[str, ...] = ("num_hidden_layers",)
    """The fields of a configuration that hold how many layers the stack has (or, as a list, each of its containers)."""

    fixed: str = ""
    """Why it cannot be removed; empty where it can."""

    family: str = ""
    """The name of its family."""

    inferred: bool = False
    """Whether nobody has declared it."""

    experts: tuple[Experts, ...] = ()
    """Their members are among the feed-forward blocks."""

    def roles(self) -> Iterator[tuple[str, Weight]]:
        """Yield (role, weight) of everything in the layer that can be pruned."""
        for attention in self.attentions:
            yield from attention.roles()
        for feed_forward in self.feed_forwards:
            yield from feed_forward.roles()
        yield from self.others


@dataclass(frozen=True)
class Anatomy:
    """A model by role."""

    layers: tuple[Layer, ...]
    embeddings: tuple[Weight, ...]
    task_head: tuple[Weight, ...]
    between: tuple[Weight, ...] = ()
    """What joins parts of the model and lies in no layer (a projector from images to text); `default` means it too."""

    _roles: dict[str, tuple[Weight, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[str, list[Weight]] = {"embeddings": list(self.embeddings), "task_head": list(self.task_head)}
        for layer in self.layers:
            for role, weight in layer.roles():
                names = {DEFAULT if role != "router" else "", role, role.partition(".")[0]} - {""}
                for name in names:
                    found.setdefault(name, []).append(weight)
            for experts in layer.experts:
                members = [weight for member in experts.members for _, weight in member.roles()]
                found.setdefault("experts", []).extend(members)
        found.setdefault(DEFAULT, []).extend(self.between)
        object.__setattr__(self, "_roles", {name: tuple(weights) for name, weights in found.items() if weights})

    @property
    def families(self) -> tuple[str, ...]:
        """The names of the layers' families, sorted."""
        return tuple(sorted({layer.family for layer in self.layers}))

    @property
    def inferred(self) -> tuple[str, ...]:
        """Those of `families` that nobody has declared: classes of layers whose parts were inferred."""
        return tuple(sorted({layer.family for layer in self.layers if layer.inferred}))

    def role(self, name: str) -> tuple[Weight, ...]:
        """Return the weights of a role, in the model's order; empty where it has none."""
        return self._roles.get(name, ())

    def roles(self) -> list[str]:
        """Return the roles that the model has."""
        return [role for role in ROLES if role in self._roles]

    @property
    def attentions(self) -> list[Attention]:
        """All attention blocks."""
        return [block for layer in self.layers for block in layer.attentions]

    @property
    def feed_forwards(self) -> list[FeedForward]:
        """All feed-forward blocks."""
        return [block for layer in self.layers for block in layer.feed_forwards]

    @property
    def experts(self) -> list[Experts]:
        """All experts, by layer."""
        return [experts for layer in self.layers for experts in layer.experts]

    def depth(self) -> int:
        """Return the number of layers of the deepest stack."""
        return max((layer.index + 1 for layer in self.layers), default=0)
