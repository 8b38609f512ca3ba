"""How soon passwords are guessed, by the real lists."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from labdock.core.passwords import GUESSES_MIN, PASSWORD_MAX
from labdock.hub.passwords import guesses_needed


@pytest.mark.parametrize(
    "password",
    [
        *(
            "1234567890",
            "qwertyuiop",
            "1q2w3e4r5t",
            "password123",
            "P@ssw0rd!!",
            "iloveyou123",
            "qwertyuiop12",
        ),
        *("aaaaaaaaaaaaaaa", "abcdefghij", "adaadaadaada", "hunter2hunter2", "password2024!", "liverpoolfc1"),
        *("jupyterhub", "Labdock2026", "JupyterLab1", "administrator", "lovelace12"),
    ],
)
def test_what_everybody_tries_is_soon_guessed(password: str) -> None:
    assert guesses_needed(password, ("ada", "lovelace")) < GUESSES_MIN


@pytest.mark.parametrize(
    "password",
    ["correct horse battery", "vier kleine gelbe enten", "kdjwhenahf", "Tr0ub4dor und drei", "красная вишня"],
)
def test_a_few_words_or_random_letters_are_not(password: str) -> None:
    assert guesses_needed(password, ("ada", "lovelace")) >= GUESSES_MIN


@pytest.mark.parametrize("unit", ["x", "4@", "aB3$", "1l0o5s", "a1b2c3d4e5f6", "password"])
def test_no_password_takes_long_to_judge(unit: str) -> None:
    guesses_needed("the lists are loaded", ())
    began = time.process_time()
    guesses_needed((unit * PASSWORD_MAX)[:PASSWORD_MAX], ())
    assert time.process_time() - began < 2


def test_the_lists_are_loaded_only_when_a_password_is_set() -> None:
    program = "import sys, labdock.hub.pages, labdock.hub.sign_in; print('zxcvbn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
