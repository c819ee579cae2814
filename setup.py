"""Packaging. Tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# What rendering audio from a model needs, and nothing more: ranges, not pins, so that the package fits
# into an existing environment.
CORE = [
    "torch>=2.6",
    "numpy>=1.26",
    "safetensors>=0.4.3",
    "pydantic>=2.7,<3",
    "annotated-types>=0.6",
    "soundfile>=0.12.1",
    "soxr>=0.3.7",
    "scipy>=1.11",
]

EXTRAS = {
    "train": ["lightning>=2.4,<3", "matplotlib>=3.8", "tensorboard>=2.15"],
    "text": ["transformers>=4.50", "sentencepiece>=0.2"],
    "phoneme": ["g2p_en>=2.1"],
    "codecs": ["transformers>=4.50"],
    "pesq": ["pesq>=0.0.4"],
    "x-transformers": ["x-transformers>=2.0"],
    "wandb": ["wandb>=0.18"],
    "flash": ["flash-attn>=2.6"],
    "av": ["av>=12"],
    "quantize": ["torchao>=0.10"],
    "deepspeed": ["deepspeed>=0.15"],
    "yaml": ["PyYAML>=6"],
    "serve": [
        "fastapi>=0.115",
        "uvicorn>=0.30",
        "python-multipart>=0.0.9",
        "prometheus-client>=0.20",
    ],
}
EXTRAS["dev"] = [
    *EXTRAS["train"],
    *EXTRAS["text"],
    *EXTRAS["codecs"],
    *EXTRAS["x-transformers"],
    *EXTRAS["av"],
    *EXTRAS["quantize"],
    *EXTRAS["wandb"],
    *EXTRAS["yaml"],
    *EXTRAS["serve"],
    "PyWavelets>=1.6",
    "accelerate>=1.0",
    "auraloss>=0.4",
    "diffusers>=0.30",
    "httpx>=0.27",
    "hypothesis>=6.100",
    "mypy>=1.10",
    "peft>=0.14",
    "playwright>=1.45",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "ruff>=0.11",
    "torchdiffeq>=0.2.4",
    "torchsde>=0.2.6",
    "vector-quantize-pytorch>=1.14",
]

# Folders of configs that a wheel has inside the package; stable_audio/shipped.py finds them at both places.
CONFIGS = {f"stable_audio.{name}": name for name in ("model_configs", "dataset_configs")}
SHIPPED = ["**/*.json", "**/*.jsonl", "**/*.safetensors"]

setup(
    name="stable-audio",
    version="0.1.0",
    description="Audio diffusion training and generation from one JSON file",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[*find_packages(include=["stable_audio", "stable_audio.*"]), *CONFIGS],
    package_dir=CONFIGS,
    package_data={
        "stable_audio": ["py.typed"],
        "stable_audio.audio": ["theme.css"],
        "stable_audio.audio.contact_sheet": ["sheet.*"],
        "stable_audio.audio.demo_page": ["demos.*"],
        "stable_audio.interface.page": ["assets/*"],
        "stable_audio.interface.watch": ["*.html", "*.css", "*.js"],
        **dict.fromkeys(CONFIGS, SHIPPED),
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["stable-audio = stable_audio.cli:main"]},
)
