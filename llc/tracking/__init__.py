"""Sacred, outgoing: experiments with a strict config, honest endings and whole records.

A script reads from top to bottom:

    ex = tracking.experiment("dln_lambdahat", DLNConfig)

    @ex.main
    def main(_run, _config):
        config = parse(DLNConfig, _config)
        keeper = tracking.keeper(_run)      # loops that hold their state there can be resumed
        ...
        tracking.record(_run, lambdahat=..., rhat=...)
        tracking.log_curve(_run, "loss_trace", steps, values)
        with tracking.artifact(_run, "traces.nc") as path:
            ...
        print(tracking.whereabouts(_run))

    if __name__ == "__main__":
        tracking.run(ex)

Exit codes of `tracking.run`:

    0    the run completed and its record is whole
    1    the run failed (a traceback is shown), or it ended but its record could not be written
    2    bad input: one line on stderr, before any work
    3    the run completed; its record is whole on disk, but not in MongoDB (the place is named)
    75   interrupted by SIGTERM or SIGUSR2 (status INTERRUPTED; the same command again goes on)
    130  interrupted by Ctrl-C (status INTERRUPTED)

`-F DIR` records into files, `-m host:port:database` (or a URL with user and password, which is
nowhere shown or recorded) into MongoDB, both into both under one id. The files always come first:
what goes to MongoDB only has its files under `outputs/mongodb` until the database has everything.
"""

from llc.tracking.commandline import run
from llc.tracking.experiments import experiment
from llc.tracking.interrupts import Interrupted
from llc.tracking.planning import planned
from llc.tracking.resuming import keeper
from llc.tracking.writing import artifact, log_curve, plain, record, run_directory, whereabouts

__all__ = [
    "Interrupted",
    "artifact",
    "experiment",
    "keeper",
    "log_curve",
    "plain",
    "planned",
    "record",
    "run",
    "run_directory",
    "whereabouts",
]
