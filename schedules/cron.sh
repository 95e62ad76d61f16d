#!/usr/bin/env bash
# Submits jobs.relabel from cron to a running Ray cluster. In a crontab, for 02:15 each night:
#   15 2 * * *  RAY_ADDRESS=http://head:8265 /opt/tart-ray/schedules/cron.sh s3://bucket/relabel.yaml >>relabel.log 2>&1
# Overlapping runs do no harm: the second is refused while the first is at work. Exits with 1 if the job failed, and with 0
# if it was done or was stopped; the job's output goes to stdout.
set -euo pipefail
: "${1:?usage: cron.sh CONFIG [--section.key value ...]}"
: "${RAY_ADDRESS:?set it to the address of the job server: http://head:8265}"
project=$(cd "$(dirname "$0")/.." && pwd)
PATH="$project/.venv/bin:$PATH" # where `make setup` installs ray; cron's own PATH is short
exec ray job submit --address "$RAY_ADDRESS" --working-dir "$project" -- bash schedules/relabel.sh "$@"
