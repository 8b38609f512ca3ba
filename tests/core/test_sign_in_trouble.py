"""What providers answer when a sign-in fails, and what that means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.openid import BASIC, POST, read_discovery
from labdock.core.sign_in_trouble import SignInError, Trouble, callback_trouble, token_trouble

CALLBACK = "https://gpu.example.edu/hub/oauth_callback"
ISSUER = "https://login.example.edu/realms/lab"
DISCOVERY: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
}


def of_token(status: int, answer: Any) -> Trouble | None:
    return token_trouble("GitHub", CALLBACK, "read:org", status, answer)


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (404, {"error": "Not Found"}, "wrong-client"),
        (404, None, "wrong-client"),
        (200, {"error": "incorrect_client_credentials"}, "wrong-secret"),
        (401, {"error": "invalid_client", "error_description": "Unauthorized"}, "wrong-secret"),
        (
            401,
            {"error": "invalid_client", "error_description": "The OAuth client was not found."},
            "wrong-client",
        ),
        (200, {"error": "bad_verification_code"}, "code-spent"),
        (400, {"error": "invalid_grant"}, "code-spent"),
        (200, {"error": "redirect_uri_mismatch"}, "wrong-callback"),
        (400, {"error": "invalid_scope"}, "wrong-scope"),
        (200, {}, "strange-answer"),
        (200, None, "strange-answer"),
        (200, {"access_token": 5}, "strange-answer"),
        (200, {"access_token": "t", "error": "x"}, "strange-answer"),
        (302, {"access_token": "t"}, "strange-answer"),
        (400, {"error": ["invalid_grant"]}, "strange-answer"),
    ],
)
def test_each_answer_of_a_token_endpoint_has_its_meaning(status: int, answer: Any, kind: str) -> None:
    trouble = of_token(status, answer)
    assert trouble is not None
    assert trouble.kind == kind


def test_a_token_is_no_trouble() -> None:
    assert of_token(200, {"access_token": "t", "token_type": "bearer"}) is None


def test_a_wrong_callback_is_told_with_the_right_one() -> None:
    assert CALLBACK in callback_trouble("GitHub", CALLBACK, "", "redirect_uri_mismatch").fix


@given(st.text(), st.text(), st.integers(200, 499))
def test_what_a_provider_or_a_link_writes_is_shown_to_nobody(word: str, described: str, status: int) -> None:
    secret = f"s3cret{described}"
    answer = {"error": f"odd {word}", "error_description": secret, "access_token": secret}
    for trouble in (of_token(status, answer), callback_trouble("GitHub", CALLBACK, "", f"odd {word}")):
        assert trouble is not None
        assert "s3cret" not in str(trouble)
        assert "odd" not in str(trouble)


def test_a_provider_is_found_by_its_own_description() -> None:
    found = read_discovery("X", ISSUER + "/", 200, DISCOVERY)
    assert (found.issuer, found.userinfo, found.ways) == (ISSUER, "", (BASIC,))
    both = {"token_endpoint_auth_methods_supported": ["private_key_jwt", POST, BASIC]}
    assert read_discovery("X", ISSUER, 200, DISCOVERY | both).ways == (BASIC, POST)


@pytest.mark.parametrize(
    ("status", "changed"),
    [
        (404, {}),
        (200, None),
        (200, {"issuer": "https://evil.example"}),
        (200, {"issuer": None}),
        (200, {"token_endpoint": "http://login.example.edu/token"}),
        (200, {"token_endpoint": None}),
        (200, {"jwks_uri": 5}),
        (200, {"userinfo_endpoint": "http://login.example.edu/me"}),
    ],
)
def test_a_description_of_somebody_else_or_without_encryption_is_not_believed(
    status: int, changed: dict[str, Any] | None
) -> None:
    with pytest.raises(SignInError):
        read_discovery("X", ISSUER, status, None if changed is None else DISCOVERY | changed)
