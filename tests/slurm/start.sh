#!/usr/bin/env bash
# A SLURM of one node in DIR, for this machine alone, as root:
#
#     tests/slurm/start.sh DIR &        # prints "ready" when jobs can be sent
#     SLURM_CONF=DIR/slurm.conf sbatch ...
#
# Everything it needs and writes is in DIR, and it ends with this script. Debian: slurm-wlm, munge.
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
node=$(hostname -s)
mkdir -p "$dir"/{state,spool}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# AuthInfo: a job that is put back into the queue waits for its old credentials to expire.
cat >"$dir/slurm.conf" <<CONF
ClusterName=llc
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=bf_interval=3,sched_interval=3
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmdParameters=config_overrides
NodeName=$node NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$dir/slurm.conf

pids=()
stop() {
  scancel --user=root 2>/dev/null && sleep 2 # jobs outlive their daemons
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill "${pids[i]}" 2>/dev/null && wait "${pids[i]}"
  done
}
trap stop EXIT
trap 'exit 0' TERM INT

head -c 1024 /dev/urandom >"$dir/munge.key"
chmod 600 "$dir/munge.key"
munged --foreground --force --key-file "$dir/munge.key" --socket "$dir/munge.socket" \
  --pid-file "$dir/munged.pid" --log-file "$dir/munged.log" --seed-file "$dir/munge.seed" \
  >"$dir/munged.out" 2>&1 &
pids+=($!)
for _ in {1..100}; do
  [[ -S $dir/munge.socket ]] && break
  sleep 0.1
done
slurmctld -D >"$dir/slurmctld.out" 2>&1 &
pids+=($!)
slurmd -D >"$dir/slurmd.out" 2>&1 &
pids+=($!)
for _ in {1..300}; do
  [[ $(sinfo -h -o %T 2>/dev/null) == idle ]] && break
  kill -0 "${pids[@]}" || exit 1
  sleep 0.1
done
[[ $(sinfo -h -o %T) == idle ]]
echo ready
wait
