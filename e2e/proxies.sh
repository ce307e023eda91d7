#!/bin/bash
# The relay behind the proxies of docs/proxies, each as its recipe has it, in the test bed at E2E_BED: two stock Tailscale
# clients behind hard NATs that only know the proxy.
# Called by run.sh as scenario "p"; prints PASS and FAIL lines as the bed does. Exit status 0: no FAIL.
# shellcheck source=SCRIPTDIR/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
recipes=$ROOT/docs/proxies

# recipe FILE: as it stands in docs/proxies, with the name and the certificate of the bed.
recipe() {
  sed -e 's/relay\.example\.com/derp1.e2e.test/g' -e "s|/etc/ssl/derp1|$RUN/certs/derp1|g" "$recipes/$1"
}
has_stream() { nginx -V 2>&1 | grep -q -- '--with-stream\b' && { [[ ! -d /usr/lib/nginx ]] || [[ -e $module ]]; }; }
module=/usr/lib/nginx/modules/ngx_stream_module.so

nginx_conf() { # nginx_conf RECIPE http|stream: the nginx.conf around it
  [[ $2 == stream && -e $module ]] && echo "load_module $module;"
  echo "daemon off; worker_processes 1; pid $RUN/nginx.pid; error_log stderr; events {}"
  if [[ $2 == stream ]]; then
    recipe "$1"
    return
  fi
  echo "http { access_log off;"
  recipe "$1"
  echo "}"
}
write_conf() { # what the proxy of this front reads
  case $front in
    nginx-stream) nginx_conf nginx-stream.conf stream ;;
    nginx-http) nginx_conf nginx-http.conf http ;;
    haproxy) recipe haproxy.cfg ;;
  esac >"$RUN/$front.conf"
}
proxy_up() {
  case $front in
    nginx-*) start "$front" r1 nginx -e stderr -p "$RUN" -c "$RUN/$front.conf" ;;
    haproxy) start "$front" r1 haproxy -db -f "$RUN/$front.conf" ;;
  esac
  retry 15 in_ns pub curl -sfo /dev/null --cacert "$RUN/ca.crt" https://derp1.e2e.test/derp/probe || die "$front does not answer, see $RUN/log/$front.log"
}
relay_start() { # relay_start CONFIG FLAGS...: by the recipe, and what the bed needs besides
  recipe "$1" >"$RUN/relay.yaml"
  shift
  start relay-r1 r1 $RELAY_CMD --config "$RUN/relay.yaml" --state-dir "$RUN/relay/p.state" --admit any --log-level debug \
    --region-id 901 --region-code e2e1 --node-name 901r1 "$@"
  retry 15 in_ns r1 curl -so /dev/null http://127.0.0.1:80/generate_204 || die "the relay does not start, see $RUN/log/relay-r1.log"
}
# The NAT of hard1 is 203.0.113.103; the proxy's own address is 127.0.0.1.
sees() {
  local log=$RUN/log/relay-r1.log n
  for n in 103 104; do
    grep -m1 "peer present.*addr=203\.0\.113\.$n:" "$log" | cut -c1-200 | grep . || return 1
  done
  ! grep -q 'peer present.*addr=127\.' "$log"
}
stun_works() { ts hard1 netcheck --format=json-line | jq -ce 'select(.UDP and .RegionLatency["901"] > 0) | .RegionLatency'; }
printed_port() { # the map that detour prints names the proxy's port and name
  "$ROOT/bin/detour" map --format json --config "$RUN/relay.yaml" --state-dir "$RUN/relay/p.state" "$@" |
    jq -ce '.Regions[].Nodes[0] | select(.HostName == "derp1.e2e.test" and (.DERPPort // 443) == 443) | {HostName, DERPPort}'
}
again() { stop "$front"; proxy_up; retry 40 derp_ping hard1 hard2 e2e1 1; }

try() { # try FRONT CONFIG FLAGS...
  front=$1
  local program=${1%%-*}
  shift
  if ! command -v "$program" >/dev/null || { [[ $front == nginx-stream ]] && ! has_stream; }; then
    say "FAIL  $front: not tried, $program with what the recipe needs is not installed; hint: apt-get install $program"
    fails=$((fails + 1))
    return
  fi
  stop_all control
  rm -f "$RUN/log/relay-r1.log"
  cert_new derp1.e2e.test
  relay_start "$@"
  write_conf
  proxy_up
  derpmap 901:r1:domain
  node_up hard1 hard2
  files_on hard2
  check "ping hard1 -> hard2" derp_ping hard1 hard2
  check "5 MB hard2 -> hard1" fetch hard1 hard2 5000000
  check "the relay sees the clients and not the proxy" sees
  check "STUN past the proxy" stun_works
  check "the map that detour prints" printed_port "${@:2}"
  check "proxy restarted, traffic again" again
  stop "$front" # not killed: its workers must go with it
}

ends_with p
net_up; ca_new; cert_new control.e2e.test; cert_new derp1.e2e.test
derpmap 901:r1:domain
control_up
files=(--cert-mode files --cert "$RUN/certs/derp1.e2e.test.crt" --key "$RUN/certs/derp1.e2e.test.key")
try nginx-stream passthrough.yaml "${files[@]}"
try haproxy passthrough.yaml "${files[@]}"
try nginx-http plain-backend.yaml
((fails == 0))
