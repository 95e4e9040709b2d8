"""`python -m llc COMMAND ...`: see COMMANDS."""

import sys
from importlib import import_module

COMMANDS = {  # name: (module with main(argv) -> exit code, what it does)
    "runs": ("llc.records.commandline", "show recorded runs as one table"),
    "analyze": ("llc.benchmarking.analyze", "figure and summary of benchmark runs, from traces"),
    "compare": ("llc.benchmarking.compare", "all samplers side by side, from benchmark runs"),
    "run-line": ("llc.commands.running", "run line K of a command file"),
    "status": ("llc.commands.status", "tell what became of each line of a command file"),
}


def main(argv: list[str]) -> int:
    """Run a command; its ValueErrors are one line on stderr and exit code 2."""
    name, *rest = argv or ["--help"]
    if name not in COMMANDS:
        listing = "\n".join(f"  {name:<10}{what}" for name, (_, what) in COMMANDS.items())
        asked = name in ("-h", "--help")
        print(
            f"usage: python -m llc COMMAND ...\n{listing}", file=sys.stdout if asked else sys.stderr
        )
        return 0 if asked else 2
    try:
        return int(import_module(COMMANDS[name][0]).main(rest))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
