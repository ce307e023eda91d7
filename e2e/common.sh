# What our own scenarios share; each sources it first. It takes the bed's library and its lock, and counts failures.
# Set by the scenario: $front, if its checks are to be named apart.
# shellcheck shell=bash
set -u
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # the bed's library looks for its files there
HERE=$E2E_BED
# shellcheck source=/dev/null
. "$E2E_BED/lib.sh"
exec 9>/tmp/e2e.lock
flock -n 9 || die "another run is in progress"
fails=0

check() { # check TEXT CMD...: a line PASS or FAIL with the last line that CMD printed
  local what=$1 out v=PASS t; t=$(now); shift
  out=$("$@" 2>&1) || { v=FAIL; fails=$((fails + 1)); }
  say "$v  ${front:+$front: }$what ($(since "$t")s): $(tail -1 <<<"$out")"
}
control_up() { # a control server that hands out $RUN/derpmap.json
  start control inet "$PEERS/e2e-control" serve -listen "$CONTROL" -cert "$RUN/certs/control.e2e.test" -derpmap "$RUN/derpmap.json"
}
ends_with() { # ends_with LETTER: at the end of the script the logs are kept and the bed is taken down
  # shellcheck disable=SC2064 # LETTER is meant as it is now
  trap "stop \"\${front:-}\"; stop_all; rm -rf \"\$E2E_OUT/$1\"; cp -r \"\$RUN/log\" \"\$E2E_OUT/$1\"; net_down" EXIT
  trap 'exit 130' INT TERM
  mkdir -p "$E2E_OUT"
}
