"""Small configurations of models whose layers are declared: one for every class that a family lists."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.majors import OLD, of_transformers

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 40}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
PLAIN = {**TEXT, **ENDS, "max_position_embeddings": 64}
GROUPED = {**PLAIN, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
IMAGE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
         "patch_size": 8}  # fmt: skip
SIDES = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
         (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))}  # fmt: skip
PAIR = {"d_model": 32, **SIDES, "vocab_size": 40, "max_position_embeddings": 64, "decoder_start_token_id": 0, **ENDS}
SOUND = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 40,
         "conv_dim": [16, 16], "conv_kernel": [8, 4], "conv_stride": [4, 4], "num_feat_extract_layers": 2,
         "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4, **ENDS}  # fmt: skip
STABLE = {**SOUND, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
N = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 40, **ENDS}
ROPE = {
    "rope_scaling" if OLD else "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]
    }
}  # fmt: skip

BACKBONE = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1],
            "layer_type": "basic", "out_features": ["stage2"]}  # fmt: skip

CONFIGS: dict[str, tuple[dict[str, Any], ...]] = {
    "LlamaForCausalLM": (GROUPED,),
    "MistralForCausalLM": (HEADS,),
    "MinistralForCausalLM": (HEADS,),
    "Qwen2ForCausalLM": (GROUPED,),
    "Qwen3ForCausalLM": (HEADS,),
    "Qwen2VLTextModel": ({**GROUPED, **ROPE},),
    "Qwen2_5_VLTextModel": ({**GROUPED, **ROPE},),
    "Qwen3VLTextModel": ({**HEADS, **ROPE},),
    "GemmaForCausalLM": (HEADS,),
    "Gemma2ForCausalLM": (HEADS,),
    "Gemma3ForCausalLM": (HEADS,),
    "GraniteForCausalLM": (GROUPED,),
    "OlmoForCausalLM": (GROUPED,),
    "CohereForCausalLM": (GROUPED, {**GROUPED, "use_qk_norm": True}),
    "Cohere2ForCausalLM": (GROUPED,),
    "StableLmForCausalLM": (GROUPED, {**GROUPED, "qk_layernorm": True}),
    "SmolLM3ForCausalLM": (GROUPED,),
    "HeliumForCausalLM": (HEADS,),
    "Exaone4ForCausalLM": (GROUPED,),
    "SeedOssForCausalLM": (HEADS,),
    "Ernie4_5ForCausalLM": (HEADS,),
    "HunYuanDenseV1ForCausalLM": (HEADS,),
    "ArceeForCausalLM": (GROUPED,),
    "NemotronForCausalLM": (GROUPED,),
    "MixtralForCausalLM": ({**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},),
    "Qwen2MoeForCausalLM": ({**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 16, "decoder_sparse_step": 2},),
    "Qwen3MoeForCausalLM": ({**HEADS, **EXPERTS},),
    "GptOssForCausalLM": ({**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},),
    "GraniteMoeForCausalLM": ({**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},),
    "Glm4MoeForCausalLM": ({**HEADS, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                            "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},),
    "PhiForCausalLM": (PLAIN,),
    "Phi3ForCausalLM": (GROUPED,),
    "GlmForCausalLM": (HEADS,),
    "Glm4ForCausalLM": (HEADS,),
    "Starcoder2ForCausalLM": (GROUPED,),
    "GPTNeoXForCausalLM": (PLAIN,),
    "BloomForCausalLM": ({"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 40, **ENDS},),
    "PersimmonForCausalLM": (PLAIN,),
    "GPTNeoForCausalLM": ({"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 40, "intermediate_size": 64,
                           "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64, **ENDS},),
    "GPTJForCausalLM": ({**N, "rotary_dim": 4, "n_positions": 64},),
    "MptForCausalLM": ({"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 40, "expansion_ratio": 2, **ENDS},),
    "GPT2LMHeadModel": (N, {**N, "add_cross_attention": True}),
    "DecisionTransformerModel": ({"hidden_size": 32, "n_layer": 2, "n_head": 4, "state_dim": 3, "act_dim": 2},),
    "OPTForCausalLM": ({"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
                        "vocab_size": 40, "word_embed_proj_dim": 32, "max_position_embeddings": 64, **ENDS},),
    "XGLMForCausalLM": ({"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64, "vocab_size": 40, **ENDS},),
    "BioGptForCausalLM": (PLAIN,),
    "BartForConditionalGeneration": (PAIR,),
    "MBartForConditionalGeneration": (PAIR,),
    "MarianMTModel": (PAIR,),
    "M2M100ForConditionalGeneration": (PAIR,),
    "PegasusForConditionalGeneration": (PAIR,),
    "BlenderbotForConditionalGeneration": (PAIR,),
    "BlenderbotSmallForConditionalGeneration": (PAIR,),
    "PLBartForConditionalGeneration": (PAIR,),
    "WhisperForConditionalGeneration": ({"d_model": 32, **SIDES, "vocab_size": 40, "num_mel_bins": 8,
                                         "max_source_positions": 20, "max_target_positions": 20,
                                         "decoder_start_token_id": 0, **ENDS},),
    "T5ForConditionalGeneration": ({"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 64,
                                    "vocab_size": 40, "decoder_start_token_id": 0},),
    "MT5ForConditionalGeneration": ({"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 64,
                                     "vocab_size": 40, "decoder_start_token_id": 0},),
    "UMT5ForConditionalGeneration": ({"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 64,
                                      "vocab_size": 40, "decoder_start_token_id": 0},),
    "UdopEncoderModel": ({"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 64, "vocab_size": 40,
                          "image_size": 32, "patch_size": 8, "max_2d_position_embeddings": 64},),
    "CLIPVisionModel": ({**IMAGE, "projection_dim": 16},),
    "CLIPTextModel": ({**PLAIN, "projection_dim": 16},),
    "SiglipVisionModel": (IMAGE,),
    "SiglipTextModel": ({**PLAIN, "projection_size": 32},),
    "Siglip2TextModel": ({**PLAIN, "projection_size": 32},),
    "ViTForImageClassification": (IMAGE,),
    "DeiTForImageClassification": (IMAGE,),
    "ViTMAEModel": ({**IMAGE, "mask_ratio": 0.0},),
    "ViTMSNForImageClassification": (IMAGE,),
    "IJepaForImageClassification": (IMAGE,),
    "Dinov2ForImageClassification": ({**IMAGE, "mlp_ratio": 2}, {**IMAGE, "mlp_ratio": 2, "use_swiglu_ffn": True}),
    "Dinov2WithRegistersForImageClassification": ({**IMAGE, "mlp_ratio": 2},),
    "DINOv3ViTModel": (IMAGE, {**IMAGE, "use_gated_mlp": True}),
    "BeitForImageClassification": (IMAGE, {**IMAGE, "use_relative_position_bias": True}),
    "Data2VecVisionForImageClassification": (IMAGE,),
    "SwinForImageClassification": ({"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2],
                                    "num_heads": [2, 4], "window_size": 4},),
    "SegformerForImageClassification": ({"num_encoder_blocks": 2, "depths": [2, 2], "sr_ratios": [2, 1],
                                         "hidden_sizes": [16, 32], "patch_sizes": [7, 3], "strides": [4, 2],
                                         "num_attention_heads": [2, 4], "mlp_ratios": [2, 2]},),
    "DPTForDepthEstimation": ({**IMAGE, "backbone_out_indices": [0, 0, 1, 1], "neck_hidden_sizes": [16, 16, 16, 16],
                               "fusion_hidden_size": 16, "is_hybrid": False},),
    "ViltModel": ({**IMAGE, **PLAIN, "max_image_length": -1},),
    "DetrForObjectDetection": ({"d_model": 32, **SIDES, "num_queries": 4, "use_timm_backbone": False,
                                "use_pretrained_backbone": False, "backbone": None, "backbone_config": BACKBONE},),
    "YolosForObjectDetection": ({**IMAGE, "image_size": [32, 32], "num_detection_tokens": 4},),
    "Wav2Vec2ForCTC": (SOUND, STABLE),
    "HubertForCTC": (SOUND, STABLE),
    "WavLMForCTC": (SOUND, STABLE),
    "UniSpeechForCTC": (SOUND, STABLE),
    "UniSpeechSatForCTC": (SOUND, STABLE),
    "SEWForCTC": (SOUND,),
    "DebertaV2ForSequenceClassification": ({**PLAIN, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, PLAIN),
    "DebertaForSequenceClassification": ({**PLAIN, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, PLAIN),
    "MPNetForSequenceClassification": (PLAIN,),
    "ConvNextForImageClassification": ({"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2},),
    "BertForSequenceClassification": (PLAIN, {**PLAIN, "is_decoder": True, "add_cross_attention": True}),
    "RobertaForSequenceClassification": (PLAIN,),
    "ElectraForSequenceClassification": (PLAIN,),
    "CamembertForSequenceClassification": (PLAIN,),
    "XLMRobertaForSequenceClassification": (PLAIN,),
    "XLMRobertaXLForSequenceClassification": (PLAIN,),
    "ErnieForSequenceClassification": (PLAIN,),
    "LayoutLMForSequenceClassification": (PLAIN,),
    "LayoutLMv3ForSequenceClassification": ({**PLAIN, "coordinate_size": 4, "shape_size": 8, "input_size": 32, "patch_size": 8},),
    "BertGenerationEncoder": (PLAIN,),
    "BigBirdForSequenceClassification": (PLAIN, {**PLAIN, "attention_type": "original_full"}),
    "RoFormerForSequenceClassification": (PLAIN,),
    "EsmForSequenceClassification": ({**PLAIN, "mask_token_id": 2},),
    "MegatronBertForSequenceClassification": (PLAIN,),
    "Data2VecTextForSequenceClassification": (PLAIN,),
    "AlbertForSequenceClassification": ({**PLAIN, "embedding_size": 16},),
    "DistilBertForSequenceClassification": ({"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 40},),
    "MobileBertForSequenceClassification": ({**PLAIN, "intra_bottleneck_size": 16, "true_hidden_size": 16,
                                             "embedding_size": 16},),
    "ModernBertForSequenceClassification": ({**PLAIN, "cls_token_id": 1, "sep_token_id": 0},),
}  # fmt: skip
NOT_BEFORE_5 = {("StableLmForCausalLM", 1)}  # norms without a shift, which its own initialisation expects
CASES = [(kind, place) for kind, configs in CONFIGS.items() for place in range(len(configs))]


def make(kind: str, place: int = 0, **more: Any) -> Any:
    """Return a small model with random weights, in evaluation mode; no bias and no scale is at its first value."""
    if OLD and (kind, place) in NOT_BEFORE_5:
        pytest.skip(f"transformers before 5 cannot make this {kind}")
    torch.manual_seed(0)
    model = of_transformers(kind)
    made = model(model.config_class(**{**CONFIGS[kind][place], **more})).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    assert isinstance(made, nn.Module)
    return made
