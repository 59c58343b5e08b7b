import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Unauthorized
from gateway.tenant import Listed, Tenants

NAMES = ("Authorization", "api-key", "x-api-key", "OpenAI-Organization", "OpenAI-Project")


def test_a_listed_key_names_its_tenant_however_it_is_sent() -> None:
    tenants = Tenants([Listed("sk-1", "acme"), Listed("sk-2", "acme"), Listed("sk-3", "zeta")], b"s" * 32)
    assert tenants.resolve({"Authorization": "Bearer sk-1"}) == "t:acme"
    assert tenants.resolve({"Authorization": "bearer sk-2"}) == "t:acme"
    assert tenants.resolve({"x-api-key": "sk-3"}) == "t:zeta"


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer nope", "Basic sk-1", "sk-1"])
def test_an_unknown_or_missing_key_never_gets_through(value: str) -> None:
    with pytest.raises(Unauthorized):
        Tenants([Listed("sk-1", "acme")], b"s" * 32).resolve({"Authorization": value})


credentials = st.fixed_dictionaries(
    {}, optional={name: st.text(st.characters(exclude_characters="\n"), max_size=8) for name in NAMES}
)


@given(credentials, credentials)
def test_in_open_mode_different_credentials_are_different_tenants(
    a: dict[str, str], b: dict[str, str]
) -> None:
    tenants = Tenants([], b"s" * 32)

    def shown(headers: dict[str, str]) -> list[str]:
        return [headers.get(name, "") for name in NAMES]

    assert (tenants.resolve(a) == tenants.resolve(b)) == (shown(a) == shown(b))


def test_an_open_tenant_depends_on_the_secret_and_hides_the_key() -> None:
    headers = {"Authorization": "Bearer sk-very-secret"}
    one, two = Tenants([], b"1" * 32).resolve(headers), Tenants([], b"2" * 32).resolve(headers)
    assert one != two
    assert "secret" not in one
