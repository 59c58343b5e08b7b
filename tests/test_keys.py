"""Keys: what is printed can be listed, and a hash tells nothing of its key."""

import json

import pytest

from gateway import keys
from gateway.cli import main
from gateway.config import build


def test_a_hash_belongs_to_its_key_and_to_no_other() -> None:
    key, other = keys.generate(), keys.generate()
    row = keys.read(str(keys.hashed(key)))
    assert row.id == keys.id_of(key)
    assert keys.digest(key, row.salt) == row.digest
    assert keys.digest(other, row.salt) != row.digest
    assert key.rsplit("-", 1)[1] not in str(row)


def test_the_same_key_is_salted_anew_each_time() -> None:
    key = keys.generate()
    assert keys.hashed(key).digest != keys.hashed(key).digest


@pytest.mark.parametrize("key", ["", "sk-1", "sgw-abc-def", "sgw-" + "0" * 12 + "-" + "x" * 42])
def test_a_key_that_could_be_guessed_is_not_hashed(key: str) -> None:
    with pytest.raises(ValueError, match="generated"):
        keys.hashed(key)


@pytest.mark.parametrize("text", ["blake2b:", "blake2b:0:1:2", "blake2b:" + "0" * 12 + ":zz:" + "0" * 64])
def test_a_spoiled_hash_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="not a key's hash") as caught:
        keys.read(text)
    assert text not in str(caught.value)


def test_the_command_prints_the_key_once_and_a_line_for_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["keys", "new", "--tenant", "acme", "--label", "ci", "--expires", "2027-01-31"]) == 0
    out = capsys.readouterr().out.splitlines()
    row = json.loads(out[1].removeprefix("- "))
    assert keys.read(row["key"]).id == keys.id_of(out[0])
    models = [{"name": "m", "backends": [{"url": "http://x"}]}]
    config = build({"models": models, "tenants": [{"name": "acme", "keys": [row]}]}, {})
    assert config.tenants[0].listed[0].label == "ci"
    assert config.tenants[0].listed[0].expires is not None
