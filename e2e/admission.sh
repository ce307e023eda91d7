#!/bin/bash
# Admission with real Tailscale clients in the test bed at E2E_BED: a relay that was told nothing asks its operator;
# then one that asks a server at Headscale's /verify, which comes and goes.
# Called by run.sh as scenario "q"; prints PASS and FAIL lines as the bed does. Exit status 0: no FAIL.
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

relay() { # relay FLAGS...: on host r1
  stop relay-r1
  start relay-r1 r1 $RELAY_CMD --state-dir "$RUN/relay/q.state" --hostname derp1.e2e.test --log-level debug \
    --cert-mode files --cert "$RUN/certs/derp1.e2e.test.crt" --key "$RUN/certs/derp1.e2e.test.key" \
    --region-id 901 --region-code e2e1 --node-name 901r1 "$@"
  retry 15 in_ns pub curl -sfo /dev/null --cacert "$RUN/ca.crt" https://derp1.e2e.test/derp/probe || die "the relay does not answer, see $RUN/log/relay-r1.log"
}
detour() { "$ROOT/bin/detour" "$@" --state-dir "$RUN/relay/q.state"; }
logged() { grep -c -- "$1" "$RUN/log/relay-r1.log"; } # logged WORDS: how often
unanswered() { # the client runs, and gets no answer
  local o; o=$(ts hard1 ping --until-direct=false -c 1 --timeout=3s "$(ip_of hard1 hard2)" 2>&1); tail -1 <<<"$o"
  [[ $o == *"no reply"* || $o == *"timed out"* ]] && [[ $o != *pong* ]]
}
pings() { ts hard1 ping --until-direct=false -c 1 --timeout=3s "$(ip_of hard1 hard2)" 2>&1 | tail -1 | tee /dev/stderr | grep -q 'pong.*DERP(e2e1)'; }
told() { ts hard1 status | grep -m1 'does not know your node yet: ask its operator to allow nodekey:'; }
untold() { local o; o=$(ts hard1 status) && grep -m1 hard2 <<<"$o" && ! grep -q 'does not know your node' <<<"$o"; }
pending() { # both are listed with their own addresses
  local o; o=$(detour admit pending); say "$o" | tail -n 4 | head -n 2 | cut -c1-120 | paste -sd' '
  [[ $o == *203.0.113.103* && $o == *203.0.113.104* && $o == *waits* ]]
}
key_of() { ts "$1" status --json | jq -r .Self.PublicKey; }
allow() { detour admit allow "$(key_of "$1")" --name "$1" --json | jq -ce '{name: .rule.name, present}'; }
promoted() { # they talk, on the connections that they had
  retry 10 pings && [[ $(logged 'msg="peer waits"') == "$waits" && $(logged 'msg="peer present"') == 0 && $(logged 'msg="peer promoted"') == 2 ]]
}
silent_of() { ! grep -rl -- "$1" "$RUN/log"; }
in_status() { detour status | grep -E "^\[?.* $1 .*connected" ; }

ends_with q
net_up; ca_new; cert_new control.e2e.test; cert_new derp1.e2e.test
derpmap 901:r1:domain
control_up

relay # told nothing
node_up hard1 hard2
files_on hard2
check "nobody is let in by itself" unanswered
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
check "not reached any more" unanswered
check "let off" detour ban --remove "$(key_of hard2)"
check "and back" retry 40 pings
check "denied" detour admit deny "$(key_of hard2)"
check "not reached any more" unanswered

again() { # again FLAGS...: the relay as a new one
  stop relay-r1
  mv "$RUN/log/relay-r1.log" "$RUN/log/relay-r1.$((++runs)).log"
  rm -f "$RUN/relay/q.state/admission.db"
  relay "$@"
}
runs=0
ages=allow_for=5s,refuse_for=1s

# Another relay of ours is asked, whose operator lets the nodes in while they wait here.
other() { "$ROOT/bin/detour" "$@" --state-dir "$RUN/relay/q2.state"; }
token=$(openssl rand -hex 32)
(umask 077; echo "$token" >"$RUN/q2.token")
start relay-other r1 $RELAY_CMD --state-dir "$RUN/relay/q2.state" --hostname derp1.e2e.test --listen :8443 --stun-listen 127.0.0.1:3479 \
  --http-listen 127.0.0.1:8080 --admin-listen 127.0.0.1:9090 --admin-token-file "$RUN/q2.token"
other_up() { in_ns r1 curl -sfo /dev/null http://127.0.0.1:9090/healthz; }
retry 15 other_up || die "the second relay does not answer, see $RUN/log/relay-other.log"
again --admit "url=http://detour:$token@127.0.0.1:9090/verify,$ages" --admit-recheck 5s
check "not known to the relay that is asked: told" retry 20 told
waits=$(logged 'msg="peer waits"')
let_in() { # on the other relay, over its control API
  local k; k=$(key_of "$1")
  in_ns r1 "$ROOT/bin/detour" admit allow "$k" --admin-listen 127.0.0.1:9090 --admin-token-file "$RUN/q2.token"
}
check "the other relay's operator allows hard1" let_in hard1
check "and hard2" let_in hard2
check "promoted by a source, where they are" promoted
check "the token is in no log" silent_of "$token"
stop relay-other

# Now a server at Headscale's /verify knows the nodes.
again --admit "headscale=http://$CONTROL,$ages" --admit-recheck 5s
check "nodes that the server knows talk" retry 40 pings
stranger() { in_ns pub env SSL_CERT_FILE="$RUN/ca.crt" timeout 20 "$PEERS/e2e-control" stranger -timeout 10s -url https://derp1.e2e.test/derp; }
stranger_waits() { [[ $(stranger 2>&1) == *accepted:* ]] && grep -m1 'peer refused.*reason=not_listed' "$RUN/log/relay-r1.log"; }
check "one that it does not know waits" stranger_waits
stop control
sleep 12 # answers grow older than allow_for
check "server down: they still talk" pings
trouble() { local o; o=$(detour status) && grep -m1 TROUBLE <<<"$o"; }
check "server down: its trouble shows" trouble
relay --admit "headscale=http://$CONTROL,$ages" --admit-recheck 5s
check "relay restarted with the server down: they are back" retry 40 pings
control_up
quiet() { local o; o=$(detour status) && ! grep -q TROUBLE <<<"$o"; }
check "server back: no trouble any more" retry 40 quiet
((fails == 0))
