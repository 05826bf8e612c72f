"""BERT and those built like it: RoBERTa, ELECTRA, CamemBERT, XLM-RoBERTa, ERNIE, LayoutLM, BigBird, RoFormer, ESM."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

KINDS = (
    "Bert", "Roberta", "Electra", "Camembert", "XLMRoberta", "XLMRobertaXL", "Ernie", "LayoutLM", "LayoutLMv3",
    "BertGeneration", "BigBird", "RoFormer", "Esm", "MegatronBert", "Data2VecText",
)  # fmt: skip
register(
    Architecture(
        name="bert",
        layers=tuple(f"{kind}Layer" for kind in KINDS),
        attentions=tuple(
            AttentionPaths.at(block, "self.query", "self.key", "self.value", "output.dense", "self.attention_head_size")
            for block in ("attention", "crossattention")
        ),
        feed_forwards=(FeedForwardPaths(up="intermediate.dense", down="output.dense"),),
        embeddings=(*(f"{kind}Embeddings" for kind in KINDS), "embeddings_project"),  # the last is ELECTRA's
    )
)
