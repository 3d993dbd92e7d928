"""The end of a command's help: examples, environment variables and exit codes."""

import textwrap
from collections.abc import Mapping

EXIT_CODES = {
    0: "done",
    1: "failed; one line on stderr says why",
    2: "wrong usage; one line on stderr says what to do",
    130: "stopped by Ctrl-C",
}


def epilog(examples: str, environment: str = "", exit_codes: Mapping[int, str] = EXIT_CODES) -> str:
    """Return an epilog for argparse, with a section for each argument that is not empty."""
    codes = "\n".join(f"{code:<4} {meaning}" for code, meaning in exit_codes.items())
    sections = {"examples": examples, "environment": environment, "exit codes": codes}
    return "\n\n".join(
        f"{title}:\n{textwrap.indent(dedent(text), '  ')}"
        for title, text in sections.items()
        if text
    )


def dedent(text: str) -> str:
    """Return a text without its common indentation and its outer empty lines."""
    return textwrap.dedent(text).strip("\n")
