"""The real bundled model through export, cache and warm start."""

import json
import logging
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gateway.embedding import sentence
from gateway.embedding.sentence import SentenceEmbedder
from gateway.errors import EmbedderFailed


def exported(cache: Path) -> Path:
    (folder,) = cache.glob("all-MiniLM*")
    return folder


def test_it_says_what_it_is(embedder: SentenceEmbedder) -> None:
    assert re.fullmatch(r"all-MiniLM-L6-v2:[0-9a-f]{8}:onnx-int8", embedder.name)
    assert (embedder.dim, embedder.window, embedder.runtime) == (384, 256, "onnx-int8")
    assert repr(embedder) == f"<SentenceEmbedder {embedder.name}, 384 dimensions, window 256>"


def test_vectors_are_unit_and_near_for_near_meanings(embedder: SentenceEmbedder) -> None:
    near, same, far = embedder.encode(
        ["How do I reverse a list in Python?", "Reversing a Python list", "Best pasta recipe"]
    )
    assert near.dtype == np.float32
    assert np.linalg.norm([near, same, far], axis=1) == pytest.approx([1.0] * 3, abs=1e-4)
    assert near @ same > 0.75
    assert near @ far < 0.3


def test_rows_follow_the_texts_whatever_their_lengths(embedder: SentenceEmbedder) -> None:
    texts = ["word " * n for n in (40, 1, 12, 200, 3, 25, 2)] + ["", "hi"]
    together = embedder.encode(texts)
    alone = np.vstack([embedder.encode([text]) for text in texts])
    assert together.shape == (9, 384)
    similar = (together @ alone.T).argmax(axis=1)
    assert similar[[0, 3, 7, 8]].tolist() == [0, 3, 7, 8]
    assert (together * alone).sum(axis=1).min() > 0.95  # int8 scales are shared by a group
    assert embedder.encode([]).shape == (0, 384)


def test_tokens_are_counted_beyond_the_window(embedder: SentenceEmbedder) -> None:
    assert embedder.tokens(["hello world", "hello " * 300, ""]) == [4, 302, 2]
    assert embedder.tokens([]) == []


def test_absurdly_long_texts_are_beyond_the_window_without_being_tokenized(
    embedder: SentenceEmbedder,
) -> None:
    assert embedder.tokens(["x" * 10_000_000])[0] > embedder.window
    assert embedder.encode(["x" * 10_000_000]).shape == (1, 384)


def test_lone_surrogates_and_nul_do_not_raise(embedder: SentenceEmbedder) -> None:
    texts = ["\ud800 broken", "a\0b", "emoji \U0001f600", "\u200b"]
    assert min(embedder.tokens(texts)) >= 2
    assert np.isfinite(embedder.encode(texts)).all()


def test_a_warm_start_loads_neither_torch_nor_sentence_transformers(cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gateway.embedding.sentence import SentenceEmbedder\n"
        "e = SentenceEmbedder(cache=Path(sys.argv[1])); e.encode(['hello'])\n"
        "print([m for m in ('torch', 'sentence_transformers', 'transformers', 'onnx') if m in sys.modules])"
    )
    root = str(Path(sentence.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", code, str(cache)], capture_output=True, text=True, check=True, cwd=root
    )
    assert run.stdout.strip() == "[]"


def test_the_cache_holds_the_export_and_nothing_else(cache: Path) -> None:
    folder = exported(cache)
    assert [path.name for path in cache.iterdir()] == [folder.name]
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "tokenizer.json", "meta.json"}
    meta = json.loads((folder / "meta.json").read_bytes())
    assert (meta["dim"], meta["window"]) == (384, 256)
    assert (folder / "model.onnx").stat().st_size < 30_000_000


def test_a_corrupt_cache_is_exported_anew(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = exported(cache)
    mine = tmp_path / good.name
    shutil.copytree(good, mine)
    (mine / "model.onnx").write_bytes(b"not a graph")
    exports = copying(monkeypatch, good)
    with caplog.at_level(logging.WARNING):
        assert SentenceEmbedder(cache=tmp_path).encode(["hello"]).shape == (1, 384)
    assert len(exports) == 1
    assert "unreadable" in caplog.text


def test_two_processes_may_export_at_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = copying(monkeypatch, exported(cache), together=threading.Barrier(2, timeout=10))
    made: list[SentenceEmbedder] = []
    threads = [
        threading.Thread(target=lambda: made.append(SentenceEmbedder(cache=tmp_path))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(exports) == 2
    assert len({embedder.name for embedder in made}) == 1
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == [exported(cache).name]


def copying(
    monkeypatch: pytest.MonkeyPatch, good: Path, together: threading.Barrier | None = None
) -> list[Path]:
    """Exports replaced by a copy of a good one: what is under test is the publishing."""
    exports: list[Path] = []

    def run_exporter(folder: Path, draft: Path, runtime: str) -> tuple[int, str]:
        shutil.copytree(good, draft, dirs_exist_ok=True)
        exports.append(draft)
        if together:
            together.wait()
        return 0, ""

    monkeypatch.setattr(sentence, "_run_exporter", run_exporter)
    return exports


def test_what_cannot_be_exported_is_served_on_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        sentence, "_run_exporter", lambda *_: (sentence.UNEXPORTABLE, "tracing failed: strange module")
    )
    loaded = []

    class Torch:
        dim, window = 3, 5

        def __init__(self, folder: Path, threads: int) -> None:
            loaded.append((folder, threads))

    monkeypatch.setattr(sentence, "TorchModel", Torch)
    embedder = SentenceEmbedder(cache=tmp_path, threads=1)
    assert embedder.name.endswith(":torch")
    assert embedder.runtime == "torch"
    assert len(loaded) == 1
    assert "strange module" in caplog.text


def test_a_failed_export_leaves_nothing_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence, "_run_exporter", lambda *_: (1, "OSError: disk full"))
    with pytest.raises(EmbedderFailed, match="disk full"):
        SentenceEmbedder(cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbedderFailed, match="file"):
        SentenceEmbedder(cache=tmp_path / "file")
