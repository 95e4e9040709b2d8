"""Write the commands of a study of samplers: `expt_sampler_benchmark.py` over a YAML or JSON file.

    python gen_commands_expt_sampler_benchmark.py studies/samplers.yaml outputs/samplers.txt

`llc.commands.studies` says what stands in a study, and in a JSON grid of sampler settings. Runs
that are completed already, by this version of the code and in the place where these would record,
are left out unless `--force` is given. Without PATH the commands run here, MAX_WORKERS at a time.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from llc.benchmarking.reuse import completed
from llc.commands.generating import arguments, deliver, observer
from llc.commands.lines import command
from llc.commands.running import run_all
from llc.commands.studies import Planned, read_study
from llc.tracking.versions import code_version

MONGO_SERVER = "localhost:27017"
MAX_WORKERS = 2  # the runs are timed: no more of them than there are cores


def commands(study: Path, kind: str = "files", force: bool = True) -> list[str]:
    """A command per run of the study; unless `force`, only of those not completed yet."""
    options = observer(kind, study.stem, MONGO_SERVER)
    runs = read_study(study)
    chosen = runs if force else missing(runs, options)
    return [
        command("expt_sampler_benchmark.py", options, {"expt_name": study.stem, **run.updates})
        for run in chosen
    ]


def missing(runs: Sequence[Planned], options: Sequence[str]) -> list[Planned]:
    """The runs that are not completed where `options` record; how many are is said on stderr."""
    done, code = completed(options[1]), code_version()
    left = [run for run in runs if run.config.run_hash(code) not in done]
    print(
        f"{len(runs) - len(left)} of {len(runs)} runs are completed in {options[1]} and left out "
        "(--force keeps them)",
        file=sys.stderr,
    )
    return left


def main(argv: Sequence[str] | None = None) -> int:
    """Write the commands, print them, or run them here."""
    first = {"study": "YAML study or JSON grid"}
    parser = arguments(__doc__, first, nargs="?")
    parser.add_argument("--force", action="store_true", help="keep runs that are completed already")
    parser.add_argument("--print", action="store_true", help="print the commands, write nothing")
    chosen = parser.parse_args(argv)
    try:
        lines = commands(Path(chosen.study), chosen.observer, chosen.force)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if chosen.print:
        print(*lines, sep="\n")
        return 0
    if chosen.path is None:
        return run_all(lines, min(MAX_WORKERS, os.cpu_count() or 1)) if lines else 0
    return deliver(lines, chosen.path, bool(chosen.overwrite))


if __name__ == "__main__":
    sys.exit(main())
