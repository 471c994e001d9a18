"""What a checkpoint says of itself, and what tells it from another."""

import hashlib
from pathlib import Path

# a foreign checkpoint has no record; its rope type tells the method
METHOD_BY_ROPE = {"linear": "pi", "yarn": "yarn", "dynamic": "ntk"}
KEYS = ("method", "base_model", "original_length", "trained_length", "trained_tokens")


def describe(name_or_path: str, config) -> dict:
    """KEYS from the checkpoint's `context_extension`; without one, "base" and its own window. Lengths in tokens."""
    record = getattr(config, "context_extension", None)
    if record:
        return {key: record.get(key) for key in KEYS}
    rope = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "max_position_embeddings", None)
    method = METHOD_BY_ROPE.get(rope.get("rope_type"), "base")
    original = window if method == "base" else rope.get("original_max_position_embeddings", window)
    return dict(zip(KEYS, (method, name_or_path, original, window, None), strict=True))


def fingerprint(name_or_path: str, config) -> str:
    """16 hex digits over a folder's config.json, *.py, and each weight file's name, size, first and last MiB; for a
    hub id, the id and its commit."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return f"{name_or_path}@{getattr(config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.py"), *folder.glob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]
