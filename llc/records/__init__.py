"""Sacred, incoming: run directories and MongoDB -> one table, curves, traces.

    runs = load_runs("runs", "mongodb://localhost:27017/sweep", where={"status": "COMPLETED"})
    runs[["config.seed", "lambdahat", "true_lambda"]]
    curves(runs, "config.seed")           # one row per checkpoint of every run
    traces(runs.iloc[0]).loss             # (chain, draw), read from traces.nc when asked for

The table has one row a run, and the same columns from files and from MongoDB:

- `source`, `id`, `directory`: where it stands; `experiment`, `host`, `commit`, `dirty`;
- `status` (Sacred's, or DEAD for a run that says RUNNING and gives no sign of life any more),
  `superseded`, `started`, `ended`, `heartbeat` (UTC), `duration` (seconds, up to the last sign of
  life), `result`;
- `config.KEY.KEY…` for every configuration key, always with `config.`: `itemp` is also in `info`;
- `info` under its own names, dotted where it is nested (`trained_param_info.lambdahat`). Lists of
  up to 100 numbers stay lists; longer ones and `records` are left to `curve`.

A run that recorded with `-F` and `-m` is one row where both are sources: its files say so, and id,
start, host, experiment and configuration agree. Of the two records the one that knows more counts.

Runs that cannot be read are in `runs.attrs["broken"]`, as (where, why). Nothing is unpickled.
"""

from llc.records.curves import curve, curves, traces
from llc.records.sources import SourceError
from llc.records.table import load_runs, select

__all__ = ["SourceError", "curve", "curves", "load_runs", "select", "traces"]
