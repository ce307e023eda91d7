# Maps the test bed's settings to the flags of `detour serve`; the bed sources it where a relay starts.
# Set there: r (relay, r1 or r2), n (its number), mode (domain, port or ip), RUN, PORT, STUN_PORT, HOSTNAME_, CERTDIR.
# The state directory outlives a restart of the relay within one run, so the server key and, in ip mode, the pinned
# certificate do too.
# shellcheck shell=bash disable=SC2034,SC2154
relay_flags() {
  local setting
  for setting in MESH_PSK MESH_WITH VERIFY_SOCKET VERIFY_URL FAIL_OPEN; do
    [[ -z ${!setting:-} ]] || die "detour does not support the bed's setting $setting=${!setting} yet; leave this scenario out"
  done
  flags=(--state-dir "$RUN/relay/$r.state" --admit any --hostname "$HOSTNAME_"
    --listen ":$PORT" --stun-listen ":$STUN_PORT" --http-listen ":80"
    --region-id "$((900 + n))" --region-code "e2e$n" --region-name "E2E 90$n" --node-name "90${n}$r")
  case $mode in
    ip) flags+=(--cert-mode pin) ;;
    *) flags+=(--cert-mode files --cert "$CERTDIR/$HOSTNAME_.crt" --key "$CERTDIR/$HOSTNAME_.key") ;;
  esac
}
