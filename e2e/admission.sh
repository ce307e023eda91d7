#!/bin/bash
# Admission with real Tailscale clients in the test bed at E2E_BED: a relay that was told nothing asks its operator;
# then one that asks a server at Headscale's /verify, which comes and goes.
# Called by run.sh as scenario "q"; prints PASS and FAIL lines as the bed does. Exit status 0: no FAIL.
set -u
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
HERE=$E2E_BED
# shellcheck source=/dev/null
. "$E2E_BED/lib.sh"
exec 9>/tmp/e2e.lock
flock -n 9 || die "another run is in progress"
fails=0

check() { # check TEXT CMD...
  local what=$1 out v=PASS t; t=$(now); shift
  out=$("$@" 2>&1) || { v=FAIL; fails=$((fails + 1)); }
  say "$v  $what ($(since "$t")s): $(tail -1 <<<"$out")"
}
relay() { # relay FLAGS...: on host r1
  stop relay-r1
  start relay-r1 r1 $RELAY_CMD --state-dir "$RUN/relay/q.state" --hostname derp1.e2e.test --log-level debug \
    --cert-mode files --cert "$RUN/certs/derp1.e2e.test.crt" --key "$RUN/certs/derp1.e2e.test.key" \
    --region-id 901 --region-code e2e1 --node-name 901r1 "$@"
  retry 15 in_ns pub curl -sfo /dev/null --cacert "$RUN/ca.crt" https://derp1.e2e.test/derp/probe || die "the relay does not answer, see $RUN/log/relay-r1.log"
}
detour() { "$ROOT/bin/detour" "$@" --state-dir "$RUN/relay/q.state"; }
log() { cat "$RUN/log/relay-r1.log"; }
logged() { grep -c -- "$1" "$RUN/log/relay-r1.log"; } # logged WORDS: how often
not() { ! "$@"; }
pings() { ts hard1 ping --until-direct=false -c 1 --timeout=3s "$(ip_of hard1 hard2)" 2>&1 | tail -1 | tee /dev/stderr | grep -q 'pong.*DERP(e2e1)'; }
told() { ts hard1 status | grep -m1 'does not know your node yet: ask its operator to allow nodekey:'; }
untold() { not told; }
pending() { # both are listed with their own addresses
  local o; o=$(detour admit pending); say "$o" | tail -n 4 | head -n 2 | cut -c1-120 | paste -sd' '
  [[ $o == *203.0.113.103* && $o == *203.0.113.104* && $o == *waits* ]]
}
key_of() { ts "$1" status --json | jq -r .Self.PublicKey; }
allow() { detour admit allow "$(key_of "$1")" --name "$1" --json | jq -ce '{name: .rule.name, present}'; }
promoted() { # they talk, on the connections that they had
  retry 10 pings && [[ $(logged 'msg="peer waits"') == "$waits" && $(logged 'msg="peer present"') == 0 && $(logged 'msg="peer promoted"') == 2 ]]
}
in_status() { detour status | grep -E "^\[?.* $1 .*connected" ; }

trap 'stop_all; rm -rf "$E2E_OUT/q"; cp -r "$RUN/log" "$E2E_OUT/q"; net_down' EXIT
trap 'exit 130' INT TERM
mkdir -p "$E2E_OUT"
net_up; ca_new; cert_new control.e2e.test; cert_new derp1.e2e.test
derpmap 901:r1:domain
control_up() { start control inet "$PEERS/e2e-control" serve -listen $CONTROL -cert "$RUN/certs/control.e2e.test" -derpmap "$RUN/derpmap.json"; }
control_up

relay # told nothing
node_up hard1 hard2
files_on hard2
check "nobody is let in by itself" not pings
check "tailscale status says why" retry 15 told
check "both are pending, with their addresses" pending
waits=$(logged 'msg="peer waits"')
check "hard1 is allowed" allow hard1
check "hard2 is allowed" allow hard2
check "they talk, where they are" promoted
check "the warning is gone from tailscale status" retry 15 untold
check "1 MB hard2 -> hard1" fetch hard1 hard2 1000000
check "names in detour status" in_status hard1
check "kicked" detour kick "$(key_of hard2)"
check "and back" retry 20 pings
check "banned" detour ban "$(key_of hard2)" --for 1h
check "not reached any more" not pings
check "let off" detour ban --remove "$(key_of hard2)"
check "and back" retry 40 pings
check "denied" detour admit deny "$(key_of hard2)"
check "not reached any more" not pings

rm -f "$RUN/log/relay-r1.log" "$RUN/relay/q.state/admission.db"
relay --admit "headscale=http://$CONTROL,allow_for=5s,refuse_for=1s" --admit-recheck 5s # which answers POST /verify
check "nodes that the server knows talk" retry 40 pings
in_ns pub env SSL_CERT_FILE="$RUN/ca.crt" timeout 20 "$PEERS/e2e-control" stranger -timeout 10s -url https://derp1.e2e.test/derp >/dev/null 2>&1
check "one that it does not know waits" grep -m1 'peer refused.*reason=not_listed' "$RUN/log/relay-r1.log"
stop control
sleep 12 # answers grow older than allow_for
check "server down: they still talk" pings
check "server down: its trouble shows" grep -q TROUBLE <(detour status)
relay --admit "headscale=http://$CONTROL,allow_for=5s,refuse_for=1s" --admit-recheck 5s
check "relay restarted with the server down: they are back" retry 40 pings
control_up
((fails == 0))
