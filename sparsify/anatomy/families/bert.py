"""BERT and those built like it: RoBERTa, ELECTRA, CamemBERT, XLM-RoBERTa."""

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, register

register(
    Architecture(
        name="bert",
        layers=("BertLayer", "RobertaLayer", "ElectraLayer", "CamembertLayer", "XLMRobertaLayer"),
        attentions=tuple(
            AttentionPaths(
                query=f"{block}.self.query",
                key=f"{block}.self.key",
                value=f"{block}.self.value",
                output=f"{block}.output.dense",
                head_size=f"{block}.self.attention_head_size",
            )
            for block in ("attention", "crossattention")
        ),
        feed_forwards=(FeedForwardPaths(up="intermediate.dense", down="output.dense"),),
        embeddings=(
            "BertEmbeddings", "RobertaEmbeddings", "ElectraEmbeddings", "CamembertEmbeddings", "XLMRobertaEmbeddings",
            "embeddings_project",  # ELECTRA's
        ),
    )
)  # fmt: skip
