import pytest

from gateway.policy.book import from_json
from gateway.policy.faults import PolicyFaults
from gateway.policy.folder import MAX_BYTES, load_folder, parse

CODE = "categories:\n  - name: code\n    cache: {ttl: 7d, threshold: 0.9}\n"


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def faults(folder, **options):
    with pytest.raises(PolicyFaults) as caught:
        load_folder(folder, **options)
    return caught.value.faults


def test_files_become_one_book_in_order_of_name(tmp_path):
    write(
        tmp_path,
        b="categories: [{name: legal}]\nrules: [{when: {tenant: x}, then: {category: code}}]\nignore: [user]",
        a=CODE,
        c="rules: [{when: {tenant: y}, then: {category: default}}]\nignore: [user, trace]\n",
    )
    (tmp_path / "notes.txt").write_text("categories: oops")
    (tmp_path / ".hidden.yaml").write_text("nonsense: 1")
    (tmp_path / "d.yml").write_text("guard: {skip: [order]}\n")
    book = load_folder(tmp_path)
    assert [category.name for category in book.categories] == ["code", "legal", "default"]
    assert [rule.when.tenant for rule in book.rules] == ["x", "y"]
    assert book.ignore == ("user", "trace")
    assert book.guard.skip == ("order",)


def test_a_split_book_is_the_same_book(tmp_path):
    write(tmp_path, a=CODE, b="categories: [{name: legal}]\n")
    both = {"categories": [{"name": "code", "cache": {"ttl": "7d", "threshold": 0.9}}, {"name": "legal"}]}
    assert load_folder(tmp_path).version == from_json(both).version


def test_one_file_and_empty_files_will_do(tmp_path):
    write(tmp_path, a="# nothing yet\n", b="categories:\nrules:\n")
    assert load_folder(tmp_path) == from_json(None)
    assert load_folder(write(tmp_path, c=CODE) / "c.yaml").category("code").cache.threshold == 0.9


def test_every_fault_of_every_file_is_listed(tmp_path):
    write(
        tmp_path,
        a="categories:\n  - name: code\n    cache: {mode: on}\n  - {name: twice}\n",
        b="rules: [\n",
        c="categories: [{name: twice}, {name: legal, cache: {threshold: 0.1}}]\nignore: [model]\n",
        d="rules: [{when: {match: '('}, then: {category: code}}]\n",
    )
    (tmp_path / "e.yaml").write_bytes(b"ignore: [\xff]\n")
    found = {(fault.file.rsplit("/", 1)[-1], fault.path): fault.reason for fault in faults(tmp_path)}
    assert set(found) == {
        ("a.yaml", "categories[0].cache.mode"),
        ("b.yaml", ""),
        ("c.yaml", "categories[0].name"),
        ("c.yaml", "categories[1].cache.threshold"),
        ("c.yaml", "ignore[0]"),
        ("d.yaml", "rules[0].when.match"),
        ("e.yaml", ""),
    }
    assert "line 2" in found["b.yaml", ""]
    assert "UTF-8" in found["e.yaml", ""]
    assert "a.yaml" in found["c.yaml", "categories[0].name"]


def test_a_rule_to_nowhere_is_named_at_its_own_file(tmp_path):
    write(
        tmp_path,
        a="rules: [{when: {}, then: {category: default}}]",
        b="rules: [{when: {}, then: {category: cod}}]",
    )
    write(tmp_path, c=CODE)
    (fault,) = faults(tmp_path)
    assert (fault.file, fault.path) == (str(tmp_path / "b.yaml"), "rules[0].then.category")
    assert 'did you mean "code"' in fault.reason


def test_two_guards_are_one_too_many(tmp_path):
    write(tmp_path, a="guard: {skip: [order]}", b="guard: {checks: [number]}")
    (fault,) = faults(tmp_path)
    assert fault.path == "guard"


def test_guard_checks_are_known_by_name(tmp_path):
    write(tmp_path, a="guard: {skip: [ordr]}")
    (fault,) = faults(tmp_path, checks=["order", "number"])
    assert "order" in fault.reason


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: &x [1]\nb: *x\n", "line 2, column 4: aliases"),
        ("categories: []\ncategories: []\n", "line 2, column 1: duplicate key"),
        ("a: {b: 1, b: 2}\n", "duplicate key"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("a: [1\n", "line"),
        ("a: \x07\n", "special characters"),
        ("[" * 5000, "nested too deeply"),
        ("? [a]\n: 1\n", "unhashable"),
    ],
)
def test_yaml_that_is_refused(text, word):
    with pytest.raises(ValueError, match=word.replace("(", r"\(")):
        parse(text)


def test_an_alias_bomb_is_refused_at_its_first_alias(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    (fault,) = faults(write(tmp_path, a="\n".join(lines)))
    assert "aliases" in fault.reason


def test_folders_that_hold_nothing(tmp_path):
    assert "no such folder" in faults(tmp_path / "nowhere")[0].reason
    assert "no *.yaml" in faults(tmp_path)[0].reason
    write(tmp_path, a="#" * (MAX_BYTES + 1))
    assert "larger" in faults(tmp_path)[0].reason


def test_a_file_that_cannot_be_read(tmp_path):
    write(tmp_path, a=CODE)
    (tmp_path / "b.yaml").symlink_to(tmp_path / "gone")
    (tmp_path / "c.yaml").mkdir()
    assert [fault.file.rsplit("/", 1)[-1] for fault in faults(tmp_path)] == ["b.yaml", "c.yaml"]
