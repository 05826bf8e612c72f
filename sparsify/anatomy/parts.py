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
    """An attention block. Rows of query, key and value, and columns of output, belong to heads, in order."""

    name: str
    query: Weight
    key: Weight
    value: Weight
    output: Weight
    head_size: int
    """Features of a head."""

    least: int = 0
    """Heads (groups, with grouped key and value) that the architecture cannot do without."""

    shared: str = ""
    """Blocks of one `shared` name can only lose the same heads, as T5's, which share a table of biases."""

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.query.geometry.rows // self.head_size

    @property
    def groups(self) -> int:
        """Key and value heads; fewer than `heads` with grouped-query attention."""
        return self.key.geometry.rows // self.head_size

    def roles(self) -> Iterator[tuple[str, Weight]]:
        """Yield (role, weight)."""
        for part in ("query", "key", "value", "output"):
            yield f"attention.{part}", getattr(self, part)


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward block. A neuron is a row of up (and gate) and a column of down."""

    name: str
    up: Weight
    """Where gate and up alternate in one matrix (GPT-OSS), that matrix: two neighbouring rows are a neuron."""

    down: Weight
    gate: Weight | None = None

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

    families: tuple[str, ...]
    layers: tuple[Layer, ...]
    embeddings: tuple[Weight, ...]
    task_head: tuple[Weight, ...]
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
        object.__setattr__(self, "_roles", {name: tuple(weights) for name, weights in found.items() if weights})

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
