import pytest

from gateway.exchange import Controls, Load
from gateway.policy.folder import load_folder
from gateway.policy.policy import Policy
from gateway.policy.shipped import shipped

SEMANTIC = {"api-docs", "code", "conversation", "default", "factual", "mathematics", "writing"}
STRICT, STALE = {"legal", "medical"}, {"market-data", "volatile"}


def test_the_shipped_book_is_whole():
    book = load_folder(shipped())
    assert {category.name for category in book.categories} == SEMANTIC | STRICT | STALE
    assert book.ignore == ()
    assert book.rules == ()
    for category in book.categories:
        texts = [example.lower() for example in category.examples]
        assert len(texts) >= 40
        assert len(set(texts)) == len(texts), category.name
    everything = [example.lower() for category in book.categories for example in category.examples]
    assert len(set(everything)) == len(everything)


def test_what_goes_stale_is_not_kept_long_and_prices_are_never_matched_by_meaning():
    policy = Policy(load_folder(shipped()))
    for name in sorted(STALE):
        busy = policy.ruling(Controls(), None, (name, 0.9), load=Load(1.0))
        assert busy.ttl <= 15 * 60
        assert busy.threshold >= policy.category("default").cache.threshold
    assert policy.category("market-data").cache.mode == "exact"


def test_law_and_medicine_are_the_strictest_and_never_offloaded():
    book = load_folder(shipped())
    strict = [book.category(name) for name in sorted(STRICT)]
    others = [book.category(name) for name in sorted(SEMANTIC)]
    for category in book.categories:
        assert category.offload.allow is (category not in strict)
    assert min(c.cache.threshold for c in strict) >= max(c.cache.threshold for c in others)
    assert all(c.load.threshold_slack == 0 for c in strict)


def test_an_installed_package_carries_its_own_and_a_broken_one_says_so(tmp_path, monkeypatch):
    package = tmp_path / "gateway"
    package.mkdir()
    monkeypatch.setattr("gateway.policy.shipped.files", lambda name: tmp_path / name)
    with pytest.raises(FileNotFoundError, match="missing"):
        shipped()
    for folder in (tmp_path / "policies", package / "_policies"):  # the package's own goes first
        folder.mkdir()
        (folder / "default.yaml").write_text("categories: []")
        assert shipped() == folder
