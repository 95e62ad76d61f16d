#!/usr/bin/env bash
# One scheduled run of jobs.relabel, started again while it exits with 1 or is killed: the same command continues the run.
#   relabel.sh CONFIG [--section.key value ...]
# Other exit codes are final: 0 done; 2 refused, for example while another run is at work; 3 too many bad rows; 4 too many
# labels changed. TRIES sets the number of tries, PAUSE the seconds between them.
set -uo pipefail
for ((try = 1; ; try++)); do
  python -m jobs.relabel --config "$@"
  code=$?
  (((code == 1 || code > 128) && try < ${TRIES:-3})) || exit "$code"
  echo "relabel.sh: try $try ended with $code; the next one continues it in ${PAUSE:-60} s" >&2
  sleep "${PAUSE:-60}"
done
