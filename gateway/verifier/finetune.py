"""Fine-tunes a sentence encoder to read both texts of a pair at once, and writes it as an int8 ONNX graph.

Only training imports this: it needs torch. Both texts go in as one input; each text's contextual vectors are
averaged apart, so that what the encoder knows of similarity is where learning starts (SBERT's |u - v| and u * v,
Reimers and Gurevych 2019, section 3, but with each text reading the other).
"""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from gateway.verifier.cross import GRAPH, INPUTS, TOKENIZER

Example = tuple[str, str, bool]
TRAINED_TOKENS = 64  # a longer pair is cut, while training
BATCH = 32
RATE, HEAD_RATE, WARM_UP = 1e-4, 1e-3, 0.1
HIDDEN = 128
OPSET = 17


class Cross(torch.nn.Module):
    """(n, tokens) ids, mask, segment of each token → (n,) logits that the pair means the same."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(
            str(folder), local_files_only=True, attn_implementation="eager"
        )
        self.encoder.embeddings.word_embeddings.weight.requires_grad_(False)  # most weights, least to learn
        width = self.encoder.config.hidden_size
        self.head = torch.nn.Sequential(
            torch.nn.Dropout(0.1),
            torch.nn.Linear(3 * width, HIDDEN),
            torch.nn.Tanh(),
            torch.nn.Linear(HIDDEN, 1),
        )

    def forward(self, ids: Any, mask: Any, segment: Any) -> Any:
        out = self.encoder(input_ids=ids, attention_mask=mask, token_type_ids=segment).last_hidden_state
        second = mask * segment
        a, b = _mean(out, mask - second), _mean(out, second)
        return self.head(torch.cat([(a - b).abs(), a * b, a + b], dim=1)).squeeze(1)


def _mean(out: Any, weight: Any) -> Any:
    weight = weight.unsqueeze(2).to(out.dtype)
    return (out * weight).sum(1) / weight.sum(1).clamp(min=1)


def tokenizer(folder: Path, tokens: int) -> Any:
    """The encoder's own, for pairs of at most `tokens`, without padding."""
    found = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found.no_padding()
    found.enable_truncation(tokens)
    return found


def finetune(
    examples: Sequence[Example],
    folder: Path,
    epochs: float,
    say: Callable[[str], None],
    minutes: float = float("inf"),
    keep: Callable[[Cross], None] = lambda model: None,
    seed: int = 1,
) -> Cross:
    """The encoder of `folder` after `epochs` over the examples, or fewer: the rate decays to zero by `minutes`.

    `say` hears of progress once a minute; `keep` gets the unfinished model every five, to save it.
    """
    torch.manual_seed(seed)
    model, reader = Cross(folder), tokenizer(folder, TRAINED_TOKENS)
    batches = list(_batches(examples, reader, epochs, random.Random(seed)))
    optimizer = _optimizer(model)
    rates = [group["lr"] for group in optimizer.param_groups]
    model.train()
    started = heard = kept = time.monotonic()
    running = 0.7
    for step, (tensors, wanted) in enumerate(batches, 1):
        done = max(step / len(batches), (time.monotonic() - started) / (60 * minutes))
        if done > 1:
            say(f"cross-encoder: stopped by the time limit at batch {step} of {len(batches)}")
            break
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(*tensors), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = 0.98 * running + 0.02 * float(loss.detach())
        now = time.monotonic()
        if now - heard > 60 or step == len(batches):
            heard = now
            left = (now - started) * (1 / done - 1)
            say(
                f"cross-encoder: batch {step} of {len(batches)}, loss {running:.3f}, {left / 60:.0f} min left"
            )
        if now - kept > 300:
            kept = now
            keep(model)
    return model.eval()


def _optimizer(model: Cross) -> Any:
    body = [weight for weight in model.encoder.parameters() if weight.requires_grad]
    groups = [{"params": body, "lr": RATE}, {"params": list(model.head.parameters()), "lr": HEAD_RATE}]
    return torch.optim.AdamW(groups, weight_decay=0.01)


def _batches(
    examples: Sequence[Example], reader: Any, epochs: float, draw: random.Random
) -> Iterator[tuple[tuple[Any, Any, Any], Any]]:
    """Batches of like length in random order, either text first; the last epoch may be a part of one."""
    left = round(len(examples) * epochs)
    while left > 0:
        order = draw.sample(range(len(examples)), min(left, len(examples)))
        left -= len(order)
        turned = [(b, a) if draw.random() < 0.5 else (a, b) for a, b, _ in (examples[at] for at in order)]
        read = reader.encode_batch(turned)
        by_length = sorted(range(len(order)), key=lambda at: (len(read[at].ids), draw.random()))
        chunks = [by_length[at : at + BATCH] for at in range(0, len(by_length), BATCH)]
        draw.shuffle(chunks)
        for chunk in chunks:
            wanted = torch.tensor([float(examples[order[at]][2]) for at in chunk])
            yield padded([read[at] for at in chunk]), wanted


def padded(encodings: Sequence[Any]) -> tuple[Any, Any, Any]:
    """ids, mask and segments, each (n, longest)."""
    width = max(len(encoding.ids) for encoding in encodings)
    rows = [
        (encoding.ids + [0] * (width - len(encoding.ids)), len(encoding.ids), encoding.type_ids)
        for encoding in encodings
    ]
    ids = torch.tensor([row for row, _, _ in rows])
    mask = torch.tensor([[1] * n + [0] * (width - n) for _, n, _ in rows])
    segment = torch.tensor([types + [0] * (width - n) for _, n, types in rows])
    return ids, mask, segment


def export(model: Cross, folder: Path, target: Path) -> None:
    """cross.onnx (int8 weights, one scale an output channel) and tokenizer.json, into `target`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    reader = tokenizer(folder, TRAINED_TOKENS)
    reader.no_truncation()
    (target / TOKENIZER).write_text(reader.to_str(), encoding="utf-8")
    example = padded(reader.encode_batch([("Is it so?", "Is that so?"), ("What is it?", "Why is it?")]))
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "sequence"} for name in INPUTS}
    axes["logit"] = {0: "batch"}
    full = target / "full.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracer advice; training measures what the graph answers
        torch.onnx.export(
            model, example, str(full), input_names=INPUTS, output_names=["logit"], dynamic_axes=axes,
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    quantize_dynamic(full, target / GRAPH, weight_type=QuantType.QInt8, per_channel=True)
    full.unlink()
