#!/usr/bin/env bash
# A SLURM cluster of one node in a folder: slurm.sh start FOLDER, slurm.sh stop FOLDER. Needs Debian's slurm-wlm and munge, and root.
# The partition `high` takes the node from jobs of `low`, which are queued again after ten seconds, as clusters do.
# Its commands use it with SLURM_CONF=FOLDER/slurm.conf. Nothing outside the folder is written.
set -euo pipefail
action=$1 folder=$(realpath -m "$2")
export SLURM_CONF=$folder/slurm.conf

start() {
    mkdir -p "$folder"/{state,spool,munge}
    chmod 0755 "$folder" && chmod 0700 "$folder/munge"
    head -c 128 /dev/urandom > "$folder/munge/key" && chmod 0400 "$folder/munge/key"
    munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --force
    local host memory
    host=$(hostname -s)
    memory=$(($(getconf _PHYS_PAGES) / 1024 * $(getconf PAGESIZE) / 1024))
    cat > "$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((20000 + $$ % 20000))
SlurmdPort=$((20001 + $$ % 20000))
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
ReturnToService=2
SlurmdTimeout=15
KillWait=5
MinJobAge=600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=$memory
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=10 MaxTime=INFINITE OverSubscribe=NO
PartitionName=high Nodes=ALL PriorityTier=9 PreemptMode=OFF MaxTime=INFINITE OverSubscribe=NO
CONF
    slurmctld
    slurmd
    for _ in $(seq 50); do
        sinfo --noheader --format=%T 2> /dev/null | grep -q idle && return
        sleep 0.2
    done
    tail -5 "$folder"/slurm*.log >&2
    echo "SLURM's node is not idle after ten seconds" >&2
    exit 1
}

stop() {
    scancel --user="$(id -un)" 2> /dev/null || true
    for _ in $(seq 50); do # a daemon whose jobs still end would outlive this
        [[ -z $(squeue --noheader 2> /dev/null) ]] && break
        sleep 0.2
    done
    for pid in slurmd.pid slurmctld.pid munge/pid; do
        [[ -f $folder/$pid ]] && kill "$(cat "$folder/$pid")" 2> /dev/null || true
    done
}

"$action"
