#!/bin/bash
# Logins without a pause while the relay's certificate is replaced every second: none may fail.
# usage: storm.sh [LOGINS]     default 4000; needs openssl; on loopback
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
logins=${1:-4000}
[[ -x bin/detour ]] || { echo "storm: bin/detour is not there; hint: make build" >&2; exit 2; }
command -v openssl >/dev/null || { echo "storm: openssl is not there; hint: install it" >&2; exit 2; }
dir=$(mktemp -d)
relay='' turner=''
cleanup() {
  [[ -z $turner ]] || kill "$turner" 2>/dev/null || true
  [[ -z $relay ]] || { kill "$relay" 2>/dev/null && wait "$relay" || true; }
  rm -rf "$dir"
}
trap cleanup EXIT

new_pair() { # a certificate that the relay has not seen, put in place as ACME clients do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 5 -subj /CN=storm \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$dir/key.new" -out "$dir/crt.new" 2>/dev/null
  cat "$dir/crt.new" "$dir/key.new" >"$dir/pair.new"
  mv "$dir/pair.new" "$dir/pair.pem"
}

new_pair
./bin/detour serve --state-dir "$dir/state" --admit any --listen 127.0.0.1:0 --stun-listen off --http-listen off \
  --hostname localhost --cert-pair "$dir/pair.pem" >"$dir/out" 2>"$dir/log" &
relay=$!
port=''
for _ in {1..100}; do
  port=$(awk '$1 == "relay" && sub(/^127\.0\.0\.1:/, "", $2) {print $2; exit}' "$dir/out")
  [[ $port ]] && break
  kill -0 "$relay" 2>/dev/null || break
  sleep 0.1
done
[[ $port ]] || { cat "$dir/log" >&2; echo "storm: the relay does not start" >&2; exit 1; }
(while sleep 1; do new_pair; done) &
turner=$!
status=0
./bin/detour bench --relay "https://127.0.0.1:$port" --insecure --server-pid "$relay" --storm "$logins" || status=$?
kill "$turner"
turner=''
# Not from the relay alone: what it took over counts, and the last may be under way.
taken=$(grep -c 'msg="serving a new certificate"' "$dir/log" || true)
echo "storm: $logins logins, the certificate replaced every second (taken over $taken times), exit status $status"
((taken > 0)) || { echo "storm: no certificate was taken over, so nothing was shown; hint: give more logins" >&2; exit 1; }
exit "$status"
