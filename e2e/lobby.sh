#!/bin/bash
# A real client that waits in the lobby for longer than the 120 seconds after which clients give up a silent relay, with a
# second region in its map, in the test bed at E2E_BED. It takes four minutes, so CI leaves it out.
# Called by run.sh as scenario "lobby"; prints PASS and FAIL lines as the bed does. Exit status 0: no FAIL.
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

relay() { # relay HOST NUMBER FLAGS...
  local r=$1 n=$2; shift 2
  cert_new "derp$n.e2e.test"
  start "relay-$r" "$r" $RELAY_CMD --state-dir "$RUN/relay/lobby-$r.state" --hostname "derp$n.e2e.test" --log-level debug \
    --cert-mode files --cert "$RUN/certs/derp$n.e2e.test.crt" --key "$RUN/certs/derp$n.e2e.test.key" \
    --region-id "90$n" --region-code "e2e$n" --node-name "90$n$r" "$@"
  retry 15 in_ns pub curl -sfo /dev/null --cacert "$RUN/ca.crt" "https://derp$n.e2e.test/derp/probe" || die "a relay does not answer, see $RUN/log/relay-$r.log"
}
logged() { grep -c -- "$1" "$RUN/log/relay-r1.log"; }
told() { local o; o=$(ts hard1 status) && grep -m1 'does not know your node yet' <<<"$o"; }
same() { # same SECONDS: all the while it waits on one connection, this relay its home, and says why
  local end=$((SECONDS + $1)) home n
  while ((SECONDS < end)); do
    home=$(home_of hard1); n=$(logged 'msg="peer waits"')
    [[ $home == e2e1 && $n == 1 ]] || { echo "home $home, came $n times, $((end - SECONDS)) s before the end"; return 1; }
    told >/dev/null || { echo "not told, $((end - SECONDS)) s before the end"; return 1; }
    sleep 5
  done
  echo "home $home, came once"
}
promoted() { # where it is
  local k; k=$(ts hard1 status --json | jq -r .Self.PublicKey)
  "$ROOT/bin/detour" admit allow "$k" --state-dir "$RUN/relay/lobby-r1.state" && retry 5 logged 'msg="peer promoted"' && [[ $(logged 'msg="peer waits"') == 1 ]]
}

ends_with lobby
net_up; ca_new; cert_new control.e2e.test
relay r1 1
relay r2 2 --admit any
derpmap 901:r1:domain 902:r2:domain
control_up
node_up hard1
check "it waits, and says why" retry 30 told
check "waits for 190 s, undisturbed" same 190
check "admitted, on the connection that it has" promoted
((fails == 0))
