#!/bin/bash
# The first minutes of a new user, in the test bed at E2E_BED: `make run` in this checkout with nothing configured, the
# map pasted as it was printed, two stock Tailscale clients behind hard NATs. First closed, then with ADMIT=any.
# Called by run.sh as scenario "first"; prints PASS and FAIL lines as the bed does. Exit status 0: no FAIL.
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
code=detour-900 # the region code of a relay that was told nothing

has_home() { [[ $(home_of "$1") == "$code" ]]; } # the bed's own regions are called otherwise

make_run() { # make_run [ADMIT=any]: the relay on host r1, as root starts it; its output is in the log
  stop relay-r1
  rm -f "$RUN/log/relay-r1.log"
  NODE_ENV="HOME=$HOME GOPROXY=off DETOUR_STATE_DIR=$RUN/first" start relay-r1 r1 make -C "$ROOT" run "$@"
  retry 60 grep -q '^Next: ' "$RUN/log/relay-r1.log" || die "make run prints no map, see $RUN/log/relay-r1.log"
}
# printed_map: the JSON form of the map, as it stands in what `make run` printed.
printed_map() { sed -n '/^--- JSON/,/^--- Tailscale/p' "$RUN/log/relay-r1.log" | grep -v '^---'; }
stranger() { in_ns pub env SSL_CERT_FILE="$RUN/first/pin.crt" "$PEERS/e2e-control" stranger -timeout 10s -url https://203.0.113.21/derp 2>&1; }
says() { grep -m1 -- "$1" "$RUN/log/relay-r1.log"; }
waits() { # a client that trusts the certificate is connected and waits, and the log says how to let it in
  local o; o=$(stranger); say "$o"
  [[ $o == *accepted:* ]] && retry 5 says 'peer refused.*detour admit allow nodekey:'
}
ends_well() { # SIGTERM ends it inside 10 s
  local t; t=$(now); stop relay-r1 TERM; grep -q 'msg=stopped' "$RUN/log/relay-r1.log" && awk -v s="$(since "$t")" 'BEGIN{print s " s"; exit !(s < 10)}'
}

ends_with first
net_up; ca_new; cert_new control.e2e.test

make_run
check "make run is closed and says how to admit" says 'detour admit allow nodekey:'
check "a stranger has to wait, and the log has the next step" waits
check "SIGTERM ends it" ends_well
make_run ADMIT=any
check "make run ADMIT=any says that it is open" says 'Admitted: EVERYBODY'
printed_map >"$RUN/derpmap.json"
check "the printed map is JSON with a pin" jq -e '.Regions["900"].Nodes[0].CertName | startswith("sha256-raw:")' "$RUN/derpmap.json"
control_up
node_up hard1 hard2
files_on hard2
check "ping hard1 -> hard2" derp_ping hard1 hard2 $code
check "5 MB hard2 -> hard1" fetch hard1 hard2 5000000
stop node-hard1; stop node-hard2
check "SIGTERM ends it" ends_well
((fails == 0))
