"""`python -m llc COMMAND …`: what is no experiment."""

import importlib
import sys

COMMANDS = {"runs": "llc.records.commandline"}  # each module has main(argv) -> exit code


def main(argv: list[str]) -> int:
    """Run the subcommand `argv[0]` with the rest of `argv`."""
    if not argv or argv[0] not in COMMANDS:
        print(f"usage: python -m llc {{{','.join(COMMANDS)}}} …", file=sys.stderr)
        return 2
    return int(importlib.import_module(COMMANDS[argv[0]]).main(argv[1:]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
