#!/usr/bin/env bash
# From cron to a Ray cluster that is running. In a crontab, for 02:15 each night:
#   15 2 * * *  RAY_ADDRESS=http://head:8265 /opt/tart-ray/schedules/cron.sh s3://bucket/relabel.yaml >>relabel.log 2>&1
# Overlapping runs need no care: the second one is refused while the first is at work. Ends with 1 if the job
# failed, with 0 if it was done, or was stopped; what the job said goes to stdout.
set -euo pipefail
: "${1:?usage: cron.sh CONFIG [--section.key value ...]}"
: "${RAY_ADDRESS:?set it to the address of the job server: http://head:8265}"
project=$(cd "$(dirname "$0")/.." && pwd)
PATH="$project/.venv/bin:$PATH" # where `make setup` puts ray; cron's own PATH is short
exec ray job submit --address "$RAY_ADDRESS" --working-dir "$project" -- bash schedules/relabel.sh "$@"
