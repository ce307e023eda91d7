# Maps the test bed's settings to the flags of `detour serve`; the bed sources it where a relay starts.
# Set there: r (relay, r1 or r2), n (its number), mode (domain, port or ip), RUN, PORT, STUN_PORT, HOSTNAME_, CERTDIR.
# The state directory outlives a restart of the relay within one run, so the server key and, in ip mode, the pinned
# certificate do too.
# shellcheck shell=bash disable=SC2034,SC2154
relay_flags() {
  local setting
  local -a who=(--admit any)
  # The bed speaks of derper's flags, and its stranger waits for ever in a lobby.
  local each=allow_for=0s,refuse_for=0s down=refuse
  [[ ${FAIL_OPEN:-true} == false ]] || down=admit
  if [[ ${VERIFY_SOCKET:-}${VERIFY_URL:-} ]]; then
    who=(--refusal close --admit-policy all_of)
    [[ -z ${VERIFY_SOCKET:-} ]] || who+=(--admit "tailscaled=$VERIFY_SOCKET,$each,on_unavailable=refuse")
    [[ -z ${VERIFY_URL:-} ]] || who+=(--admit "url=$VERIFY_URL,$each,derper=on,on_unavailable=$down")
  fi
  for setting in MESH_PSK MESH_WITH; do
    [[ -z ${!setting:-} ]] || die "detour does not support the bed's setting $setting=${!setting} yet; leave this scenario out"
  done
  flags=(--state-dir "$RUN/relay/$r.state" "${who[@]}" --hostname "$HOSTNAME_"
    --listen ":$PORT" --stun-listen ":$STUN_PORT" --http-listen ":80"
    --region-id "$((900 + n))" --region-code "e2e$n" --region-name "E2E 90$n" --node-name "90${n}$r")
  case $mode in
    ip) flags+=(--cert-mode pin) ;;
    *) flags+=(--cert-mode files --cert "$CERTDIR/$HOSTNAME_.crt" --key "$CERTDIR/$HOSTNAME_.key") ;;
  esac
}
