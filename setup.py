"""Metadata of deepcache-trt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

CPU = ["onnxruntime>=1.30", "openvino>=2026.4"]
RTX = ["cuda-bindings>=12.8", "polygraphy>=0.53.6", "tensorrt-rtx-cu13>=1.4"]
TRAIN = ["tensorboard>=2.19"]
RAY = ["ray[data]>=2.40"]
SERVE = [*RAY, "ray[serve]>=2.47", "prometheus-client>=0.20", "pyyaml>=6"]
EVAL = [
    "matplotlib>=3.9",
    "open_clip_torch>=2.26",
    "scikit-learn>=1.5",
    "torch-fidelity>=0.3",
    "torchmetrics>=1.5",
    "torchvision>=0.27",
]
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.6", "mkdocstrings-python>=2", "ruff>=0.6"]  # ruff formats signatures

setup(
    name="deepcache-trt",
    version="0.1.0",
    description="DeepCache, compiled: cached diffusion U-Nets as engines behind ordinary diffusers pipelines",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["deepcache_trt", "deepcache_trt.*"]),
    package_data={"deepcache_trt": ["py.typed", "pipelines/*.pyi", "models/digits*/**/*", "models/digits*/*"]},
    install_requires=[
        "accelerate>=1.0",
        "diffusers>=0.42",
        "filelock>=3.13",
        "jsonschema>=4.20",
        "numpy>=1.26",
        "onnx>=1.19",
        "onnx-ir>=0.1.16",
        "onnxscript>=0.6",
        "pillow>=10",
        "platformdirs>=4",
        "psutil>=5.9",
        "rich>=13",
        "safetensors>=0.8",
        "sympy>=1.13.3",
        "torch>=2.12",
        "transformers>=5.0",
        "typer>=0.19",
        "xxhash>=3.4",
    ],
    extras_require={
        "cpu": CPU,
        "cuda": ["cuda-bindings>=12.8", "onnxruntime-gpu>=1.30", "polygraphy>=0.53.6", "tensorrt>=8.6"],
        "rtx": RTX,
        "eval": EVAL,
        "train": TRAIN,
        "ray": RAY,
        "serve": SERVE,
        "ui": ["gradio>=6"],
        "comfyui": CPU,  # the folder of nodes needs no more than the package, and something that runs engines
        "docs": DOCS,
        "dev": [
            *CPU,
            *RTX,
            *TRAIN,
            *SERVE,
            "DeepCache==0.1.1",
            "hypothesis>=6",
            "matplotlib>=3.9",
            "mypy>=1.11",
            "nvidia-cuda-nvrtc>=13",  # compiles without a GPU
            "openai>=2",
            "peft>=0.18",
            "pytest>=8",
            "pytest-timeout>=2.3.1",
            "pytest-xdist>=3.6",
            "requests>=2.32",
            "ruff>=0.6",
            "scikit-image>=0.24",
            "scikit-learn>=1.5",
            "torchmetrics>=1.5",
        ],
    },
    entry_points={"console_scripts": ["deepcache-trt=deepcache_trt.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
