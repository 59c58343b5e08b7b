"""`semantic-gateway calibrate`: a policy book whose thresholds come from labelled pairs.

Every category with enough labelled non-duplicates gets its own operating point; the others get that of all
pairs together, unless the book asks for more already. With an error that load may spend, categories whose policy
lets load relax them get a budget too, and with a verifier those where it proves better get its score. Nothing else
changes.
"""

from pathlib import Path

import yaml

from gateway import build
from gateway.cache.guard import CHECKS
from gateway.calibrate import ALL, Calibration, rounded_up, run
from gateway.classify.prototypes import Prototypes
from gateway.config import EmbedderConfig
from gateway.errors import Invalid
from gateway.interfaces import Embedder, Vector
from gateway.policy.book import Book, to_json
from gateway.policy.edit import Files
from gateway.policy.folder import load_folder
from gateway.policy.policy import Policy, settled
from gateway.policy.shipped import shipped
from gateway.tune import from_log, from_pairs, table, tune


def write_policies(
    pairs: Path,
    max_error: float,
    load_error: float | None,
    out: Path,
    policies: Path | None,
    verifier: Path | None = None,
) -> int:
    """Calibrate on `pairs` and write the book to `out`, one file; prints the table. Returns the exit code.

    `verifier`: a trained one's folder, written into the categories where it proves better than similarity.
    """
    policy = build.policy(load_folder(policies or shipped(), frozenset(CHECKS)))
    embedder = build.embedder(EmbedderConfig())
    categories = _Categories(policy, embedder)
    second = None if verifier is None else build.verifier(verifier, embedder.name)
    found = run(pairs, max_error, out, embedder, policy.guard, categories, load_error, second)
    print(found.markdown())
    if ALL not in found.thresholds:
        print("Too few labelled non-duplicates for any threshold: no policies written.")
        return 1
    target = out / "policies.yaml"
    target.write_text(
        yaml.safe_dump(
            _with(policy.book, found, load_error, verifier is not None), sort_keys=False, allow_unicode=True
        )
    )
    print(f"Written: {target}. Review it, then serve it with `policies: {out}`.")
    return 0


def propose(
    pairs: Path | None, judged: Path | None, max_error: float | None, out: Path, policies: Path | None
) -> int:
    """`semantic-gateway tune`, on labelled pairs or a gateway's log of judged hits; prints a table.

    Raises Invalid for a `max_error` outside (0, 1), and for evidence or policies that cannot be read.
    """
    if max_error is not None and not 0 < max_error < 1:
        raise Invalid("--max-error must lie strictly between 0 and 1")
    folder = policies or shipped()
    policy = build.policy(load_folder(folder, frozenset(CHECKS)))
    try:
        if judged is not None:
            found = from_log(judged)
        else:
            assert pairs is not None
            embedder = build.embedder(EmbedderConfig())
            found = from_pairs(pairs, embedder, policy.guard, _Categories(policy, embedder))
    except OSError as error:
        raise Invalid(f"{judged or pairs}: {error.strerror or error}") from error
    print(table(tune(found, policy.book, Files.read(folder), max_error, out)))
    print(
        f"Written to {out}: chart.png, curve.csv, policies.diff, changes.json. Nothing was applied. To apply:"
    )
    print(f"patch -p1 -d {folder if folder.is_dir() else folder.parent} < {out / 'policies.diff'}")
    return 0


class _Categories:
    """The category of each text, as the running gateway would say."""

    def __init__(self, policy: Policy, embedder: Embedder) -> None:
        names, texts = policy.utterances()
        self._classifier = Prototypes.fit(names, embedder.encode(texts))

    def __call__(self, texts: list[str], vectors: Vector) -> list[str]:
        return [settled(*label) for label in self._classifier.label(vectors)]


def _with(
    book: Book, found: Calibration, load_error: float | None, verify: bool = False
) -> dict[str, object]:
    """The book with calibrated thresholds, rounded up to four places: never looser than certified.

    verify: there was a verifier, which each category now gets or loses.
    """
    tree = to_json(book)
    every = found.thresholds[ALL]
    for category in tree["categories"]:
        own = found.thresholds.get(category["name"])
        wanted = max(every, category["cache"]["threshold"]) if own is None else own
        category["cache"]["threshold"] = rounded_up(wanted)
        if verify:
            proof = found.proofs.get(category["name"])
            category["cache"]["verify"] = proof and {
                "above": proof.above,
                "score": rounded_up(proof.score),
                "waives": list(proof.waives),
            }
        budget = found.budgets.get(category["name"])
        if budget and category["load"]["threshold_slack"]:  # a book that gives load nothing is left so
            category["load"] |= {
                "max_error": load_error,
                "budget": [rounded_up(threshold) for threshold in budget],
                "threshold_floor": rounded_up(budget[-1]),
            }
    return tree
