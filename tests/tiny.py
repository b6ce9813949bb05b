"""Real pipelines of every family, tiny, with random weights from a fixed seed: made where a test needs them."""

# mypy: disable-error-code="no-untyped-call, attr-defined, arg-type, call-arg"
from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTX2ImageToVideoPipeline,
    LTX2VideoTransformer3DModel,
    LTXConditionPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import DEFAULT_PROMPT_TEMPLATE
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2Tokenizer,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

Kind = Literal["wan_a14b", "wan_5b", "ltx", "svd", "mochi", "hunyuan", "hunyuan15", "ltx2"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def save_tiny(kind: Kind, folder: Path) -> Path:
    """Make the tiny pipeline of this kind and save it, as safetensors, in ``folder``; the same weights every time."""
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        MAKERS[kind]().save_pretrained(folder, safe_serialization=True)
    return folder


@functools.cache
def _home() -> Path:
    home = tempfile.TemporaryDirectory(prefix="dropreel-tiny-")  # each xdist worker's own
    atexit.register(home.cleanup)
    return Path(home.name)


@functools.cache
def saved(kind: Kind) -> Path:
    """Where the tiny pipeline of this kind lies, made once a process. To be read only."""
    return save_tiny(kind, _home() / kind)


def tiny_preset(kind: Kind, folder: Path | None = None, more: str = "") -> str:
    """The TOML table of a preset ``tiny-<kind>`` whose weights lie in ``folder``; ``more`` is added at its end.

    What has the shape 2:1 fits every kind's canvas without stretching. Random weights make noise, so nothing is asked
    of the first frame or of the brightness.
    """
    family, canvas, rate, frames_max, call, studio = TABLES[kind]
    parameters = ", ".join(f'{name} = "honoured"' for name in studio)
    return f"""\
[tiny-{kind}]
family = "{family}"
weights = {{ folder = "{folder or saved(kind)}" }}
dtype = "fp32"
vae_dtype = "fp32"
canvas = {{ pixels = {canvas}, pixels_max = 20000, resolution_min = 0.05 }}
rate = {rate}
frames_max = {frames_max}
steps = {STEPS}
guidance = {1.0 if family == "svd" else 3.0}
first_frame = {{ error = "off", flag = "off" }}
drift = {{ flag = "off" }}
parameters = {{ {parameters} }}
call = {{ {call} }}
prompt = {{ template = "{{caption}} {{camera}}", negative = "blurry", max_tokens = {TOKENS.get(kind, 64)} }}
{more}"""


STEPS = 2
HY15_TARGET = 96
UNKNOWN, PADDING = {"unk_token": "<unk>"}, {"pad_token": "<pad>"}
SVD = ("motion_bucket_id", "noise_aug_strength", "decode_chunk_size", "min_guidance_scale", "max_guidance_scale")
TABLES: dict[Kind, tuple[str, int, int, int, str, tuple[str, ...]]] = {
    "wan_a14b": ("wan", 2048, 4, 33, "", ()),
    "wan_5b": ("wan", 2048, 4, 33, "", ()),
    "ltx": ("ltx", 8192, 4, 33, "", ()),
    "svd": ("svd", 8192, 2, 16, "fps = 6", SVD),
    "mochi": ("mochi", 2048, 6, 31, "strength = 0.99", ()),
    "hunyuan": ("hunyuan", 2048, 4, 33, "", ()),
    "hunyuan15": ("hunyuan15", 8192, 4, 33, f"target_size = {HY15_TARGET}", ()),
    "ltx2": ("ltx2", 8192, 4, 33, "", ()),
}
"""Family, pixels, base frames a second, most frames, arguments of its own, what it honours."""
TOKENS: dict[Kind, int] = {"hunyuan15": 640}  # its tokens are letters, and its template alone has some 500


def _t5() -> dict[str, Any]:
    config = T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4,
                      relative_attention_num_buckets=8, dropout_rate=0.0)  # fmt: skip
    return {"tokenizer": _t5_tokenizer(), "text_encoder": T5EncoderModel(config).eval()}


def _t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=pieces + [(chr(code), -3.0) for code in range(33, 127)],
                       extra_ids=0, model_max_length=512)  # fmt: skip


def _wan(vae: AutoencoderKLWan, channels: int, seen: int, experts: int, **rest: Any) -> Any:
    config = UMT5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4,
                        relative_attention_num_buckets=8, dropout_rate=0.0)  # fmt: skip
    transformers = [
        WanTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=seen,
                              out_channels=channels, text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2,
                              cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=32)
        for _ in range(experts)
    ]  # fmt: skip
    return WanImageToVideoPipeline(
        tokenizer=_t5_tokenizer(),
        text_encoder=UMT5EncoderModel(config).eval(),
        vae=vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=transformers[0],
        transformer_2=transformers[1] if experts == 2 else None,
        image_encoder=None,
        image_processor=None,
        **rest,
    )


def _wan_a14b() -> Any:
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                           temperal_downsample=[False, True, True])  # fmt: skip
    return _wan(vae, 16, 36, 2, boundary_ratio=0.9)


def _wan_5b() -> Any:
    vae = AutoencoderKLWan(base_dim=3, z_dim=48, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                           temperal_downsample=[False, True, True], in_channels=12, out_channels=12,
                           is_residual=True, patch_size=2, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
                           scale_factor_spatial=16, scale_factor_temporal=4)  # fmt: skip
    return _wan(vae, 48, 48, 1, expand_timesteps=True)


def _ltx() -> Any:
    vae = AutoencoderKLLTXVideo(latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
                                layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
                                spatio_temporal_scaling=(True, True, False, False),
                                decoder_spatio_temporal_scaling=(True, True, False, False),
                                decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4,
                                upsample_factor=(1,) * 4, timestep_conditioning=False, patch_size=1, patch_size_t=1,
                                encoder_causal=True, decoder_causal=False)  # fmt: skip
    transformer = LTXVideoTransformer3DModel(in_channels=8, out_channels=8, patch_size=1, patch_size_t=1,
                                             num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32,
                                             num_layers=2, caption_channels=32)  # fmt: skip
    return LTXConditionPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, transformer=transformer, **_t5())


def _svd() -> Any:
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=32, in_channels=8, out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=32,
        num_attention_heads=8, projection_class_embeddings_input_dim=96, addition_time_embed_dim=32)  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear",
        prediction_type="v_prediction", sigma_max=700.0, sigma_min=0.002, steps_offset=1, timestep_spacing="leading",
        timestep_type="continuous", use_karras_sigmas=True)  # fmt: skip
    vae = AutoencoderKLTemporalDecoder(block_out_channels=(32,) * 4, in_channels=3, out_channels=3,
                                       down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4)  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=32, projection_dim=32, num_hidden_layers=2, num_attention_heads=4,
                              image_size=224, intermediate_size=37, patch_size=32)  # fmt: skip
    return StableVideoDiffusionPipeline(
        unet=unet,
        scheduler=scheduler,
        vae=vae,
        image_encoder=CLIPVisionModelWithProjection(vision).eval(),
        feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
    )


def _mochi() -> Any:
    transformer = MochiTransformer3DModel(patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2,
                                          pooled_projection_dim=16, in_channels=12, out_channels=None,
                                          qk_norm="rms_norm", text_embed_dim=32, time_embed_dim=4,
                                          activation_fn="swiglu", max_sequence_length=64)  # fmt: skip
    transformer.pos_frequencies.data.zero_()
    vae = AutoencoderKLMochi(latent_channels=12, out_channels=3, encoder_block_out_channels=(32,) * 4,
                             decoder_block_out_channels=(32,) * 4, layers_per_block=(1,) * 5)  # fmt: skip
    return MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True), vae=vae, transformer=transformer, **_t5()
    )


def _hunyuan() -> Any:
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True,
        text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
        image_condition_type="latent_concat")  # fmt: skip
    vae = AutoencoderKLHunyuanVideo(
        in_channels=3, out_channels=3, latent_channels=4, down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4, block_out_channels=(8,) * 4, layers_per_block=1,
        norm_num_groups=4)  # fmt: skip
    tokenizer = _llama_tokenizer()
    text = LlamaConfig(hidden_size=16, intermediate_size=37, num_attention_heads=4, num_hidden_layers=4,
                       vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=8, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2,
                              image_size=336, patch_size=14)  # fmt: skip
    llava = LlavaConfig(vision_config=vision, text_config=text,
                        image_token_index=tokenizer.convert_tokens_to_ids("<image>"))  # fmt: skip
    llava.pad_token_id = tokenizer.pad_token_id
    words = _bytes() + [f"{letter}</w>" for letter in _bytes()] + ["<|startoftext|>", "<|endoftext|>"]
    clip = CLIPTextConfig(hidden_size=8, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2,
                          vocab_size=len(words), bos_token_id=len(words) - 2, eos_token_id=len(words) - 1,
                          projection_dim=32)  # fmt: skip
    return HunyuanVideoImageToVideoPipeline(
        text_encoder=LlavaForConditionalGeneration(llava).eval(),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=CLIPTextModel(clip).eval(),
        tokenizer_2=CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[]),
        image_processor=CLIPImageProcessor(crop_size=336, size=336),
    )


def _llama_tokenizer() -> PreTrainedTokenizerFast:
    """The words of the pipeline's template are tokens, all others are spelled: about as many as the real one's."""
    split = pre_tokenizers.Whitespace()
    words = {word for word, _ in split.pre_tokenize_str(DEFAULT_PROMPT_TEMPLATE["template"])}
    letters = {chr(code) for code in range(33, 127)}
    pieces = ["<unk>", *sorted(words | letters), *(f"##{letter}" for letter in sorted(letters))]
    spelled = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, **UNKNOWN))
    spelled.pre_tokenizer = split
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelled, **UNKNOWN, **PADDING)
    marks = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    return tokenizer


def _bytes() -> list[str]:
    """The letters by which byte-level tokenizers write bytes."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _hunyuan15() -> Any:
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_refiner_layers=1, mlp_ratio=2.0, patch_size=1, patch_size_t=1, text_embed_dim=16, text_embed_2_dim=32,
        image_embed_dim=12, rope_axes_dim=(2, 2, 4), target_size=HY15_TARGET, task_type="i2v")  # fmt: skip
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1,
                                      spatial_compression_ratio=16, temporal_compression_ratio=4,
                                      downsample_match_channel=False, upsample_match_channel=False)  # fmt: skip
    words = [*_bytes(), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[])
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + '\n' + message['content'] + '\n' }}{% endfor %}"
    )
    text = Qwen2_5_VLTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=None,
        rope_scaling={"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"})  # fmt: skip
    glyphs = T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4,
                      relative_attention_num_buckets=8, dropout_rate=0.0)  # fmt: skip
    seen = SiglipVisionConfig(hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                              image_size=378, patch_size=14)  # fmt: skip
    return HunyuanVideo15ImageToVideoPipeline(
        text_encoder=Qwen2_5_VLTextModel(text).eval(),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=T5EncoderModel(glyphs).eval(),
        tokenizer_2=ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
        image_encoder=SiglipVisionModel(seen).eval(),
        feature_extractor=SiglipImageProcessor(size={"height": 378, "width": 378}),
    )


def _ltx2() -> Any:
    layers, width = 2, 32
    letters = [chr(code) for code in range(32, 127)]
    spelled = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "<image>": 2}
                                         | {letter: n + 3 for n, letter in enumerate(letters)}, "<unk>"))  # fmt: skip
    spelled.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    text = {"vocab_size": 128, "hidden_size": width, "intermediate_size": 32, "num_hidden_layers": layers,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}  # fmt: skip
    vision = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    gemma = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=2)
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, patch_size=1, patch_size_t=1, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2,
        audio_attention_head_dim=4, audio_cross_attention_dim=8, num_layers=2, qk_norm="rms_norm_across_heads",
        caption_channels=width, rope_double_precision=False, rope_type="split")  # fmt: skip
    heads: dict[str, Any] = {f"{kind}_connector_{name}": value for kind in ("video", "audio") for name, value in
             {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 1,
              "num_learnable_registers": None}.items()}  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=width, text_proj_in_factor=layers + 1, connector_rope_base_seq_len=32, rope_type="split",
        rope_double_precision=False, **heads)  # fmt: skip
    vae = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 3, layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 4, upsample_residual=(False,) * 3, upsample_factor=(1,) * 3,
        decoder_causal=False, spatial_compression_ratio=32, temporal_compression_ratio=8)  # fmt: skip
    sound = AutoencoderKLLTX2Audio(
        base_channels=4, output_channels=2, ch_mult=(1,), num_res_blocks=1, attn_resolutions=None, in_channels=2,
        resolution=32, latent_channels=2, norm_type="pixel", causality_axis="height", dropout=0.0,
        mid_block_add_attention=False, sample_rate=16000, mel_hop_length=160, is_causal=True, mel_bins=8)  # fmt: skip
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=32, out_channels=2, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], leaky_relu_negative_slope=0.1,
        output_sampling_rate=16000)  # fmt: skip
    return LTX2ImageToVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        audio_vae=sound,
        text_encoder=Gemma3ForConditionalGeneration(gemma).eval(),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=spelled, **UNKNOWN, **PADDING),
        connectors=connectors,
        transformer=transformer,
        vocoder=vocoder,
    )


MAKERS: dict[Kind, Callable[[], Any]] = {
    "wan_a14b": _wan_a14b,
    "wan_5b": _wan_5b,
    "ltx": _ltx,
    "svd": _svd,
    "mochi": _mochi,
    "hunyuan": _hunyuan,
    "hunyuan15": _hunyuan15,
    "ltx2": _ltx2,
}
