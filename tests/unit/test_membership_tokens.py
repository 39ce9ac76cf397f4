"""Tokens: whole or refused, used once, for an hour, for one kind."""

from pathlib import Path

import pytest

from everup.agent.membership.tokens import TOKENS_MAX, Token, TokenStore
from everup.errors import BadInput, EverupError, Refused


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> TokenStore:
    return TokenStore(tmp_path / "tokens.json", clock)


def code_of(call, *arguments) -> str:
    with pytest.raises(EverupError) as caught:
        call(*arguments)
    return caught.value.code


TOKEN = Token("server", "shop", ("192.0.2.11", "10.0.0.1"), 7573, b"f" * 32, b"s" * 16)


def test_token_comes_back_as_it_was() -> None:
    assert Token.decode(TOKEN.encode()) == TOKEN
    assert Token.decode(f"  {TOKEN.encode()[:40]}\n{TOKEN.encode()[40:]} ") == TOKEN


def test_token_every_changed_character_is_noticed() -> None:
    text = TOKEN.encode()
    for position in range(0, len(text), 3):
        other = "A" if text[position] != "A" else "B"
        with pytest.raises(BadInput) as caught:
            Token.decode(text[:position] + other + text[position + 1 :])
        assert caught.value.code == "token-malformed"
    for cut in ("", "everup1-", text[:-1], text[1:], "everup1-ü"):
        assert code_of(Token.decode, cut) == "token-malformed"


def test_token_is_used_once(store: TokenStore) -> None:
    secret = store.mint("server")
    store.redeem(["server"], secret, "one")
    assert code_of(store.redeem, ["server"], secret, "another") == "token-used"


def test_token_may_be_redeemed_again_by_its_holder(store: TokenStore) -> None:
    secret = store.mint("server")
    store.redeem(["server"], secret, "one")
    store.redeem(["server"], secret, "one")


def test_token_that_was_given_back_works_again(store: TokenStore) -> None:
    secret = store.mint("server")
    store.redeem(["server"], secret, "one")
    store.give_back(secret)
    store.redeem(["server"], secret, "another")


def test_token_lasts_an_hour(store: TokenStore, clock: Clock) -> None:
    secret = store.mint("server")
    clock.now_s += 3599
    store.check(["server"], secret, "one")
    clock.now_s += 1
    assert code_of(store.redeem, ["server"], secret, "one") == "token-expired"
    clock.now_s += 3601
    assert code_of(store.redeem, ["server"], secret, "one") == "token-unknown"


def test_token_invites_one_kind(store: TokenStore) -> None:
    secret = store.mint("witness")
    assert code_of(store.redeem, ["server"], secret, "one") == "token-kind"
    store.redeem(["witness"], secret, "one")


def test_token_unknown(store: TokenStore) -> None:
    assert code_of(store.redeem, ["server"], b"x" * 16, "one") == "token-unknown"
    assert code_of(store.redeem, ["server"], b"", "one") == "token-unknown"


def test_token_store_is_bounded_and_holds_no_secret(store: TokenStore, tmp_path: Path) -> None:
    minted = [store.mint("page") for _ in range(TOKENS_MAX)]
    with pytest.raises(Refused):
        store.mint("page")
    text = (tmp_path / "tokens.json").read_text()
    assert not any(secret.hex() in text for secret in minted)
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600
