"""One line: the versions of what the figures depend on, and which optional GPU packages are installed."""

import importlib.metadata
import platform

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "peft",
    "liger-kernel",
    "flash-attn",
    "flash-attn-3",
    "flash-attn-4",
    "vllm",
)

found = [f"Python {platform.python_version()}"]
for name in PACKAGES:
    try:
        found.append(f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
        found.append(f"no {name}")
print(", ".join(found))
