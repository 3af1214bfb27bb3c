"""Where the password comes from: a file, a command, the environment, a person.

Never an argument: those can be read by every user of the machine, and by its history. A
password that a file or command gives is taken without white space at its ends, and one in a
variable as it stands, as restic does; so one file serves both programs.
"""

from __future__ import annotations

import getpass
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping

from holdfast.errors import UsageError

Prompt = Callable[[str], str]


def find_password(
    file: str | None,
    command: str | None,
    environment: Mapping[str, str],
    prompt: Prompt | None,
) -> str:
    """The password of the repository; an option wins over Holdfast's variables over restic's.

    `prompt` asks a person, and is None where there is none. Raises `UsageError`.
    """
    if file is not None or command is not None:
        return _given(file, command)
    for prefix in ("HOLDFAST", "RESTIC"):
        file = environment.get(f"{prefix}_PASSWORD_FILE")
        command = environment.get(f"{prefix}_PASSWORD_COMMAND")
        if file or command:
            return _given(file or None, command)
        password = environment.get(f"{prefix}_PASSWORD")
        if password:
            return _encodable(password, f"{prefix}_PASSWORD")
    if prompt is None:
        raise UsageError(
            "there is no password: set HOLDFAST_PASSWORD_FILE, HOLDFAST_PASSWORD_COMMAND or "
            "HOLDFAST_PASSWORD, or give --password-file or --password-command"
        )
    return prompt("password of the repository: ")


def new_password(file: str | None, command: str | None, prompt: Prompt | None) -> str:
    """A password that does not exist yet; a person types it twice."""
    if file is not None or command is not None:
        return _given(file, command)
    if prompt is None:
        raise UsageError(
            "there is no new password: give --new-password-file or --new-password-command"
        )
    return ask_twice(prompt)


def ask_twice(prompt: Prompt) -> str:
    password = prompt("new password: ")
    if not password:
        raise UsageError("an empty password protects nothing; choose one that is not empty")
    if prompt("the same again: ") != password:
        raise UsageError("the two passwords differ; nothing was changed")
    return password


def terminal_prompt() -> Prompt | None:
    """Ask on the terminal, or None where standard input is none."""
    return getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None


def _given(file: str | None, command: str | None) -> str:
    return _from_file(file) if file is not None else _from_command(command or "")


def _from_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UsageError(f"the password file {path} cannot be read: {error.strerror}") from None
    return _decoded(content, f"the password file {path}")


def _from_command(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"the password command cannot be parsed: {error}") from None
    if not words:
        raise UsageError("the password command is empty; write a program that prints the password")
    try:
        answer = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise UsageError(
            f"the password command {words[0]} cannot be run: {error.strerror}"
        ) from None
    if answer.returncode:
        raise UsageError(
            f"the password command {words[0]} failed with exit status {answer.returncode}"
        )
    return _decoded(answer.stdout, f"what the password command {words[0]} printed")


def _decoded(content: bytes, what: str) -> str:
    try:
        password = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise UsageError(f"{what} is not text in UTF-8") from None
    if not password:
        raise UsageError(f"{what} is empty")
    return password


def _encodable(password: str, variable: str) -> str:
    try:
        password.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{variable} is not text in UTF-8") from None
    return password
