#!/bin/bash
# Measures Detour beside derper, on this machine, over loopback, and writes docs/benchmarks.md and docs/plots/.
#
# Each measurement is made of one relay and at once of the other, both started afresh for it, and the whole list is gone
# through ROUNDS times, each time the other relay first: a machine that slows down for a while slows both. What counts
# is the ratio within a round. The relay has core 0 and GOMAXPROCS=1, the generator has core 1, unless a run says
# otherwise. Settings, all from the environment:
#
#   ROUNDS=3           how often the list is gone through
#   DURATION=4         seconds of each measurement
#   PEERS="2000 15000" how many idle peers; a number that the limit of open files does not allow is left out
#   RUNS=REGEX         only the runs whose whole name matches, such as 'w16-.*'; overload-* needs w16-batched before it
#   GENERATOR=PATH     another load generator with derpload's flags, in place of `detour bench`
#   DETOUR=PATH        a binary to measure, in place of one built here
#   REPORT=no          measure only
#
# Needs bash, jq, curl, Go, and taskset for the pinning. Everything binds to 127.0.0.1. Each generator has a time limit, each
# relay a limit of CPU time, and whatever is still running when this script ends is stopped by its process id.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly DERPER_VERSION=v1.102.5
rounds=${ROUNDS:-3} seconds=${DURATION:-4} wanted=${RUNS:-.*}
read -ra peers <<<"${PEERS:-2000 15000}"
detour=${DETOUR:-bin/detour} derper=bench/bin/derper generator=${GENERATOR:-detour}
tmp=$(mktemp -d)
server_pid='' flood_pid='' port=''
flooded_pid='' flooded_port='' # of the relay that beside-idle floods
declare -A saturating=() # packets/s that each relay carried with w16-batched in this round

stop() { # stop PID: asks, waits up to 10 s, insists
  local i
  [[ -n $1 ]] || return 0
  kill "$1" 2>/dev/null || true
  for ((i = 0; i < 100; i++)); do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
  done
  kill -9 "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

finish() {
  stop "$flood_pid"
  stop "$server_pid"
  stop "$flooded_pid"
  rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
  echo "compare: $*" >&2
  exit 1
}

# ---- What is measured, and with what ----

prepare() {
  local tool
  for tool in jq curl; do
    command -v "$tool" >/dev/null || fail "$tool is missing; hint: apt-get install $tool"
  done
  ulimit -n "$(ulimit -Hn)"
  [[ -n ${DETOUR:-} ]] || make --no-print-directory build
  if [[ ! -x $derper || $("$derper" --version 2>/dev/null) != "${DERPER_VERSION#v}"* ]]; then
    GOBIN=$PWD/bench/bin go install "tailscale.com/cmd/derper@$DERPER_VERSION"
  fi
  if [[ $generator == detour ]]; then
    kind=detour
    "$detour" bench --help >/dev/null 2>&1 || fail "$detour has no bench command; hint: set GENERATOR=/path/to/derpload"
  else
    kind=derpload
    [[ -x $generator ]] || fail "GENERATOR=$generator is not a program"
  fi
  out=bench/out/$kind.jsonl
  mkdir -p bench/out
}

meta() { # one line about the machine and the builds
  local cpu
  cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -n 1)
  jq -cn --arg date "$(date -u +%F)" --arg cpu "${cpu:-unknown CPU}" --argjson cores "$(nproc)" \
    --arg kernel "$(uname -sr | cut -d - -f 1)" --arg go "$(go env GOVERSION)" \
    --arg commit "$(git describe --tags --always --dirty 2>/dev/null || echo unknown)" \
    --arg derper "$DERPER_VERSION" --arg generator "$kind" --argjson rounds "$rounds" --argjson seconds "$seconds" \
    --argjson pinned "$(command -v taskset >/dev/null && echo true || echo false)" \
    --arg load "$(cut -d ' ' -f 1-3 /proc/loadavg 2>/dev/null || echo unknown)" \
    '{meta: {date: $date, cpu: $cpu, cores: $cores, kernel: $kernel, go: $go, commit: $commit, derper: $derper,
      generator: $generator, rounds: $rounds, seconds: $seconds, pinned: $pinned, load: $load}}'
}

# ---- The relays ----

pin() { # pin CPUS COMMAND...: on those cores, in place of this shell
  local cpus=$1
  shift
  if command -v taskset >/dev/null; then exec taskset -c "$cpus" "$@"; else exec "$@"; fi
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

choose_port() { # one that is free, below those that the kernel gives to clients
  local i
  for ((i = 0; i < 100; i++)); do
    port=$((20000 + RANDOM % 10000))
    answers || return 0
  done
  fail 'found no free port between 20000 and 30000'
}

start() { # start SERVER CORES [HOME]: sets server_pid and port (TCP for DERP, UDP for STUN)
  local i cpus=0 command home=${3:-$tmp/home}
  mkdir -p "$home"
  [[ $2 == 1 ]] || cpus=0-$(($2 - 1))
  choose_port
  case $1 in
  derper) command=("$derper" -a "127.0.0.1:$port" -http-port -1 -stun -stun-port "$port" -hostname 127.0.0.1
    -certmode manual -certdir "$home/cert" -c "$home/derper.key") ;;
  detour) command=("$detour" serve --admit any --state-dir "$home/state" --listen "127.0.0.1:$port" --http-listen off
    --stun-listen "127.0.0.1:$port") ;;
  esac
  (
    ulimit -t 600
    pin "$cpus" env -i PATH="$PATH" HOME="$home" GOMAXPROCS="$2" "${command[@]}"
  ) >"$home/server.log" 2>&1 &
  server_pid=$!
  for ((i = 0; i < 100; i++)); do
    answers && kill -0 "$server_pid" 2>/dev/null && return 0
    sleep 0.1
  done
  tail -n 5 "$home/server.log" >&2
  fail "$1 did not start"
}

# tally prints what a relay has done so far: its heap allocations and the packets it has sent. It prints nothing of one
# that does not tell.
tally() { # tally SERVER
  local socket=$tmp/home/state/admin.sock
  case $1 in
  derper)
    curl -sk --max-time 5 "https://127.0.0.1:$port/debug/vars" |
      jq -c '{mallocs: .memstats.Mallocs, sent_packets: .derp.packets_sent} | select(.mallocs and .sent_packets)'
    ;;
  detour)
    curl -s --max-time 5 --unix-socket "$socket" http://localhost/stats |
      jq -c --argjson mallocs "$(curl -s --max-time 5 --unix-socket "$socket" \
        'http://localhost/debug/pprof/allocs?debug=1' | sed -n 's/^# Mallocs = //p')" \
        '{mallocs: $mallocs, sent_packets: ([.relay.sent[].packets] | add)}'
    ;;
  esac 2>/dev/null || true
}

# counted runs a measurement, and adds to its result as .relay what the relay's tallies went up by meanwhile. The
# result is the generator's alone when the relay does not tell.
counted() { # counted SERVER COMMAND ARGS...
  local before after result status=0
  before=$(tally "$1")
  result=$("${@:2}") || status=$?
  after=$(tally "$1")
  jq -n --argjson result "${result:-null}" --argjson before "${before:-null}" --argjson after "${after:-null}" \
    '$result | if . and $before and $after
      then .relay_tally = ($after | with_entries(.value -= $before[.key]))
      else . end'
  return "$status"
}

# ---- The generator. Both kinds print one JSON object; what its fields mean is in bench/report/fields.go ----

generate() { # generate CPUS LIMIT COMMAND ARGS...: against the relay, for at most LIMIT seconds
  local cpus=$1 limit=$2 command=$3
  shift 3
  if [[ $kind == detour ]]; then
    set -- "$detour" bench --relay "https://127.0.0.1:$port" --insecure --server-pid "$server_pid" --json "$@"
  elif [[ $command == stun ]]; then
    set -- "$generator" stun -addr "127.0.0.1:$port" -server-pid "$server_pid" -json "$@"
  else
    set -- "$generator" "$command" -addr "127.0.0.1:$port" -insecure -server-pid "$server_pid" -json "$@"
  fi
  pin "$cpus" timeout -k 5 "$limit" "$@"
}

flows() { # flows CPUS PAIRS RATE WINDOW RECORDS [SECONDS]: records are full, each (one a packet) or single (and one a call)
  local cpus=$1 pairs=$2 rate=$3 window=$4 records=$5 time=${6:-$seconds} args
  if [[ $kind == detour ]]; then
    args=(--pairs "$pairs" --size 1400 --rate "$rate" --window "$window" --duration "${time}s")
    [[ $records == full ]] || args+=(--flush-each)
  else
    args=(-pairs "$pairs" -size 1400 -rate "$rate" -window "$window" -duration "${time}s" -latency)
    case $records in
    each) args+=(-flush-each) ;;
    single) args+=(-flush-each -batch 1) ;;
    esac
  fi
  generate "$cpus" $((time + 60)) relay "${args[@]}"
}

idle() { # idle PEERS
  if [[ $kind == detour ]]; then
    generate 1 240 idle --idle "$1" --duration 10s
  else
    generate 1 240 idle -conns "$1" -sources 4 -hold 10s
  fi
}

storm() {
  if [[ $kind == detour ]]; then
    generate 1 60 storm --storm 600
  else
    generate 1 60 storm -conns 600 -concurrency 16
  fi
}

stun() {
  if [[ $kind == detour ]]; then
    generate 1 60 stun --stun 200000 --stun-port "$port"
  else
    generate 1 60 stun -count 200000
  fi
}

fanin() {
  if [[ $kind == detour ]]; then
    generate 1 $((2 * seconds + 30)) fanin --fanin 20 --rate 20000 --duration "${seconds}s"
  else
    generate 1 $((2 * seconds + 30)) fanin -senders 20 -rate 20000 -duration "${seconds}s"
  fi
}

# beside runs a light pair while ten senders push as fast as TCP takes it, all on two cores, and leaves what became of
# those in flood.json. They go through the relay PID at PORT, the light pair through the one that was started last.
beside() { # beside PID PORT
  (
    server_pid=$1 port=$2
    flows 0,1 10 0 0 full $((seconds + 4))
  ) >"$tmp/flood.json" 2>"$tmp/flood.err" &
  flood_pid=$!
  sleep 2 # the flood logs in and fills the queues
  (flows 0,1 1 200 0 single) || true # pin replaces the shell that it runs in
  wait "$flood_pid" || true
  flood_pid=''
}

overload() { # overload SERVER TENTHS: that many tenths of what this relay carries
  local rate=${saturating[$1]:-}
  [[ -n $rate ]] || fail 'overload runs need w16-batched in the same round'
  flows 1 10 $((rate * $2 / 10)) 0 full
}

# ---- The list ----

list() {
  echo w16-batched w16-each 20k-10 20k-200 light overload-x0.5 overload-x1 overload-x2 overload-x10 overload-open \
    cores2 overload-beside beside-idle fanin storm stun
  local n
  for n in "${peers[@]}"; do
    if (($(ulimit -n) >= n + 500)); then
      echo "idle-$n"
    else
      echo "compare: $n idle peers need more open files than $(ulimit -n); hint: raise ulimit -Hn" >&2
    fi
  done
}

cores_of() { case $1 in cores2 | overload-beside | beside-idle) echo 2 ;; *) echo 1 ;; esac }

perform() { # perform RUN SERVER
  case $1 in
  w16-batched) counted "$2" flows 1 10 0 16 full ;;
  w16-each) counted "$2" flows 1 10 0 16 each ;;
  20k-10) flows 1 10 20000 0 single ;;
  20k-200) flows 1 200 20000 0 single ;;
  light) flows 1 10 3000 0 single ;;
  overload-x0.5) overload "$2" 5 ;;
  overload-x1) overload "$2" 10 ;;
  overload-x2) overload "$2" 20 ;;
  overload-x10) overload "$2" 100 ;;
  overload-open) flows 1 10 0 0 full ;;
  cores2) flows 0,1 10 0 16 each ;;
  overload-beside) beside ;;
  idle-*) idle "${1#idle-}" ;;
  *) "$1" ;;
  esac
}

note() { # note ROUND RUN SERVER FILE: appends a result, or that there is none
  if jq -e 'type == "object"' "$4" >/dev/null 2>&1; then
    jq -c --argjson round "$1" --arg run "$2" --arg server "$3" '{$round, $run, $server, result: .}' "$4" >>"$out"
  else
    echo "compare: round $1: $2 of $3 failed: $(tail -n 1 "${4%.json}.err")" >&2
    jq -cn --argjson round "$1" --arg run "$2" --arg server "$3" '{$round, $run, $server, failed: true}' >>"$out"
  fi
}

measure() { # measure ROUND RUN SERVER
  local status=0
  start "$3" "$(cores_of "$2")"
  : >"$tmp/result.json"
  # perform needs a shell of its own, for pin to replace; beside must leave its flood's process id in this one.
  case $2 in
  overload-beside)
    beside "$server_pid" "$port" >"$tmp/result.json" 2>"$tmp/result.err"
    note "$1" overload-flood "$3" "$tmp/flood.json"
    ;;
  beside-idle) # the control: what is flooded and what is measured share nothing but the cores
    flooded_pid=$server_pid flooded_port=$port
    start "$3" "$(cores_of "$2")" "$tmp/second"
    beside "$flooded_pid" "$flooded_port" >"$tmp/result.json" 2>"$tmp/result.err"
    note "$1" beside-idle-flood "$3" "$tmp/flood.json"
    stop "$flooded_pid"
    flooded_pid=''
    ;;
  *) (perform "$2" "$3") >"$tmp/result.json" 2>"$tmp/result.err" || status=$? ;;
  esac
  ((status == 0)) || echo "compare: the generator ended with status $status" >&2
  note "$1" "$2" "$3" "$tmp/result.json"
  if [[ $2 == w16-batched ]]; then
    saturating[$3]=$(jq -r '.delivered_pps // .goodput_packets_per_second // empty | floor' "$tmp/result.json")
  fi
  stop "$server_pid"
  server_pid=''
}

main() {
  local round run server order runs
  prepare
  runs=$(list | tr ' ' '\n')
  meta >"$out"
  for ((round = 1; round <= rounds; round++)); do
    order=(derper detour)
    ((round % 2)) || order=(detour derper)
    for run in $runs; do
      [[ $run =~ ^($wanted)$ ]] || continue
      for server in "${order[@]}"; do
        echo "$(date +%T) round $round of $rounds: $run, $server"
        measure "$round" "$run" "$server"
      done
    done
  done
  echo "results are in $out"
  [[ ${REPORT:-yes} == no ]] || go -C bench/report run . -docs ../../docs -cross ../out/derpload.jsonl "../out/$kind.jsonl"
}

main
