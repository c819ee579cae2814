"""Tiny valid settings, one per registered component, shared by the contract tests.

Adding a component means adding one entry here; the contract tests then cover it.
"""

from __future__ import annotations

from typing import Any

BACKBONES: dict[str, dict[str, Any]] = {
    # name in stable_audio.backbones.BACKBONES: constructor keywords (2 to 4 channels, smallest that runs)
    "dit": {
        "io_channels": 2,
        "embed_dim": 8,
        "depth": 2,
        "num_heads": 2,
        "patch_size": 2,
        "cond_token_dim": 6,
        "global_cond_dim": 4,
        "prepend_cond_dim": 5,
        "input_concat_dim": 3,
        "local_add_cond_dim": 2,
    },
    "DAU1d": {
        "io_channels": 2,
        "depth": 2,
        "n_attn_layers": 1,
        "channels": [4, 4],
        "strides": [2],
        "kernel_size": 3,
        "cond_dim": 3,
        "global_cond_dim": 4,
    },
    "adp_cfg_1d": {
        "in_channels": 2,
        "channels": 4,
        "multipliers": [1, 8],
        "factors": [2],
        "num_blocks": [1],
        "attentions": [1, 1],
        "attention_heads": 2,
        "resnet_groups": 2,
        "context_embedding_features": 6,
        "context_embedding_max_length": 8,
        "use_xattn_time": True,
        "context_features": 4,
        "context_channels": [3],
    },
    "adp_1d": {
        "in_channels": 2,
        "channels": 4,
        "multipliers": [1, 8],
        "factors": [2],
        "num_blocks": [1],
        "attentions": [1, 1],
        "attention_heads": 2,
        "resnet_groups": 2,
        "context_features": 4,
        "context_channels": [1, 2],
    },
    "unet": {
        "io_channels": 2,
        "channels": 4,
        "multipliers": [1, 2],
        "blocks": 1,
        "groups": 2,
        "attention": [False, True],
        "attention_options": {"heads": 2, "groups": 2, "feed_forward": 1, "rope": True, "qk_norm": True},
        "time": {"dim": 6, "hidden": 8},
        "cross_attn": {"dim": 5},
        "global_cond": {"dim": 4},
        "prepend": {"dim": 3},
        "input_concat": {"dim": 2},
    },
    "mlp": {
        "io_channels": 2,
        "width": 6,
        "depth": 1,
        "global_cond_dim": 4,
        "input_concat_dim": 3,
    },
}

DIT_X_TRANSFORMERS: dict[str, Any] = {
    # the layers of that package take no conditioning of single frames
    **{k: v for k, v in BACKBONES["dit"].items() if k != "local_add_cond_dim"},
    "embed_dim": 64,
    "depth": 1,
    "transformer_type": "x-transformers",
}

UNCOND_BACKBONES: dict[str, dict[str, Any]] = {
    # name in stable_audio.backbones.UNCOND_BACKBONES: constructor keywords
    "dit": {"in_channels": 2, "embed_dim": 8, "depth": 2, "num_heads": 2},
    "DAU1d": {
        "io_channels": 2,
        "depth": 2,
        "n_attn_layers": 1,
        "channels": [4, 4],
        "strides": [2],
        "kernel_size": 3,
    },
    "adp_uncond_1d": {
        "in_channels": 2,
        "channels": 4,
        "multipliers": [1, 8],
        "factors": [2],
        "num_blocks": [1],
        "attentions": [1, 1],
        "attention_heads": 2,
        "resnet_groups": 2,
    },
    "adp_1d": {
        "in_channels": 2,
        "channels": 4,
        "multipliers": [1, 8],
        "factors": [2],
        "num_blocks": [1],
        "attentions": [0, 1],
        "attention_heads": 2,
        "resnet_groups": 2,
    },
    "unet": {
        "io_channels": 2,
        "channels": 4,
        "multipliers": [1, 2],
        "blocks": 1,
        "groups": 2,
    },
    "mlp": {"io_channels": 2, "width": 6, "depth": 1},
}

CONDITIONERS: dict[str, dict[str, Any]] = {
    # name in stable_audio.conditioning.CONDITIONERS: constructor keywords (without output_dim)
    "int": {"max_val": 9},
    "number": {"max_val": 10},
    "list": {"options": ["rock", "pop"]},
    "vector": {"input_dim": 3},
    "clip_text": {"width": 8, "layers": 1, "heads": 2, "max_length": 10, "vocab_size": 258},
    "words": {"vocab_size": 50, "max_length": 4, "project_out": True},
}

CONDITIONER_VALUES: dict[str, list[Any]] = {
    # name in stable_audio.conditioning.CONDITIONERS: three different values that it accepts
    "int": [1, 5, 9],
    "number": [0.0, 3.5, 10],
    "list": ["rock", "pop", "rock"],
    "vector": [[0.5, -1.0, 2.0], [0.0, 1.0, 3.0], [1.0, 1.0, 1.0]],
    "clip_text": ["kick", "a bell", ""],
    "words": ["kick", "a bell", ""],
}

ENCODERS: dict[str, dict[str, Any]] = {
    # name in stable_audio.pretransforms.ENCODERS: constructor keywords; 2 channels to 4 features, ratio 8
    # (autoencoder_kl: images)
    "oobleck": {
        "in_channels": 2,
        "channels": 4,
        "latent_dim": 4,
        "c_mults": [1, 2],
        "strides": [2, 4],
        "use_snake": True,
    },
    "dac": {"in_channels": 2, "latent_dim": 4, "d_model": 4, "strides": [2, 4]},
    "seanet": {"channels": 2, "dimension": 4, "n_filters": 2, "ratios": [2, 4], "lstm": 1},
    "taae": {
        "in_channels": 2,
        "channels": 8,
        "latent_dim": 4,
        "c_mults": [1, 2],
        "strides": [2, 4],
        "transformer_depths": [1, 1],
        "use_snake": True,
    },
    "same": {
        "in_channels": 2,
        "channels": 8,
        "latent_dim": 4,
        "c_mults": [1, 2],
        "strides": [2, 4],
        "transformer_depths": [2, 1],
        "chunk_size": 4,
        "dim_heads": 8,
    },
    "autoencoder_kl": {
        "in_channels": 2,
        "latent_dim": 4,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
    },
    "convnext": {
        "in_channels": 2,
        "latent_dim": 4,
        "channels": 8,
        "width": 8,
        "depths": [1, 1],
        "strides": [2, 4],
    },
    "linear": {"in_channels": 2, "latent_dim": 4, "patch_size": 8},
}

DECODERS: dict[str, dict[str, Any]] = {
    # name in stable_audio.pretransforms.DECODERS: constructor keywords; 4 features to 2 channels, ratio 8
    "oobleck": {
        "out_channels": 2,
        "channels": 4,
        "latent_dim": 4,
        "c_mults": [1, 2],
        "strides": [2, 4],
        "use_snake": True,
    },
    "dac": {"out_channels": 2, "latent_dim": 4, "channels": 16, "rates": [4, 2]},
    "seanet": {"channels": 2, "dimension": 4, "n_filters": 2, "ratios": [4, 2], "lstm": 1},
    "taae": {
        "out_channels": 2,
        "channels": 8,
        "latent_dim": 4,
        "c_mults": [1, 2],
        "strides": [2, 4],
        "transformer_depths": [1, 1],
        "use_snake": True,
    },
    "same": {
        "out_channels": 2,
        "channels": 8,
        "latent_dim": 4,
        "c_mults": [1, 2],
        "strides": [2, 4],
        "transformer_depths": [2, 1],
        "chunk_size": 4,
        "dim_heads": 8,
        "sinusoidal_blocks": [0, 2],
    },
    "autoencoder_kl": {
        "out_channels": 2,
        "latent_dim": 4,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
    },
    "convnext": {
        "out_channels": 2,
        "latent_dim": 4,
        "channels": 8,
        "width": 8,
        "depths": [1, 1],
        "strides": [2, 4],
        "shortcut": True,
    },
    "linear": {"out_channels": 2, "latent_dim": 4, "patch_size": 8},
}

BOTTLENECKS: dict[str, dict[str, Any]] = {
    # name in stable_audio.pretransforms.BOTTLENECKS: constructor keywords; 4 latent channels
    "vae": {},
    "gaussian": {},
    "tanh": {"scale": 2.0},
    "l2_norm": {},
    "wasserstein": {"noise_augment_dim": 1},
    "softnorm": {"dim": 4, "auto_scale": True, "noise_regularize": True, "noise_augment_dim": 1},
    "rvq": {"dim": 4, "codebook_size": 16, "num_quantizers": 3},
    "rvq_vae": {"dim": 4, "codebook_size": 16, "num_quantizers": 2},
    "dac_rvq": {"input_dim": 4, "n_codebooks": 3, "codebook_size": 16, "codebook_dim": 2},
    "dac_rvq_vae": {"input_dim": 4, "n_codebooks": 2, "codebook_size": 16, "codebook_dim": 2},
    "fsq": {"levels": [8, 5, 5], "dim": 4},
    "dithered_fsq": {"dim": 2, "levels": 5, "num_codebooks": 2},
}

for _coders in (ENCODERS, DECODERS):
    _coders["taae_v2"] = _coders["same"]

PRETRANSFORMS: dict[str, dict[str, Any]] = {
    # name in stable_audio.pretransforms.PRETRANSFORMS: constructor keywords or config. dac_pretrained has
    # none: it needs weights on disk.
    "autoencoder": {
        "encoder": {"type": "oobleck", "config": {**ENCODERS["oobleck"], "latent_dim": 8}},
        "decoder": {"type": "oobleck", "config": DECODERS["oobleck"]},
        "bottleneck": {"type": "vae"},
        "latent_dim": 4,
        "downsampling_ratio": 8,
        "io_channels": 2,
    },
    "patched": {"channels": 2, "patch_size": 4},
    "wavelet": {"channels": 2, "levels": 2, "wavelet": "bior4.4"},
    "pqmf": {"channels": 2, "num_bands": 4, "attenuation": 60},
    "mdct": {"channels": 2, "bands": 4},
    "spectrogram": {"channels": 2, "n_fft": 30, "hop_length": 8},
    "magnitude_spectrogram": {"channels": 1, "n_fft": 64, "hop_length": 16, "iterations": 2},
    "mel_spectrogram": {"sample_rate": 8000, "n_fft": 64, "hop_length": 16, "n_mels": 8, "iterations": 2},
}

METHODS: dict[tuple[str, str], dict[str, Any]] = {
    # (model type, method) in stable_audio.training.methods.METHODS: what a `training` section needs for it,
    # and with "teacher": True weights of a model of the same type
    ("diffusion_cond", "diffusion"): {},
    ("diffusion_cond_inpaint", "diffusion"): {},
    ("diffusion_uncond", "diffusion"): {},
    ("autoencoder", "reconstruction"): {"loss_configs": {"time": {"weights": {"l1": 1.0}}}},
    ("diffusion_autoencoder", "diffusion"): {},
}

TRANSFORMS: dict[str, dict[str, Any]] = {
    # name in stable_audio.transforms.TRANSFORMS: constructor keywords, for a DiT on latents
    "freeze": {"trained": ["backbone"], "frozen": ["*.layers.0.ff"], "precision": "bfloat16"},
    "fold_pretransform_norms": {},
    "adapters": {"rank": 2, "adapter_type": "dora-rows", "dropout": 0.2, "base_precision": "bfloat16"},
}
