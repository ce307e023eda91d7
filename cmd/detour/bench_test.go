package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/bench"
)

// benchRelay starts an open relay and returns flags that lead bench to it.
func benchRelay(t *testing.T, more ...string) (s *server, flags []string) {
	t.Helper()
	s = start(t, append([]string{"serve"}, freePorts(stateDir(t), more...)...)...)
	return s, []string{"bench", "--relay", "https://" + bound(t, s, "relay"), "--insecure"}
}

// small is a run that takes no time to speak of.
var small = []string{"--pairs", "2", "--size", "200", "--duration", "100ms", "--warmup", "10ms"}

func TestBench(t *testing.T) {
	_, flags := benchRelay(t, "--admit", "any")
	for _, more := range [][]string{nil, {"--flush-each"}, {"--tls12"}, {"--rate", "500"}, {"--size", "65536", "--window", "2"}} {
		r := detour(t, append(append(append(flags[:4:4], small...), "--json"), more...)...)
		r.want(t, exitOK, "{\n", "")
		var got bench.PairsReport
		if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
			t.Fatalf("%v: %s", err, r.stdout)
		}
		tls := "TLS 1.3"
		if len(more) > 0 && more[0] == "--tls12" {
			tls = "TLS 1.2"
		}
		if got.Sent == 0 || got.Lost+got.Reordered+got.Duplicated+got.Corrupted != 0 || got.TLS != tls || !got.Complete {
			t.Errorf("%q: %+v", more, got)
		}
	}
	r := detour(t, append(flags, small...)...)
	r.want(t, exitOK, "\ncorrupted   0\n", "")
}

func TestBenchPin(t *testing.T) {
	s, flags := benchRelay(t, "--admit", "any")
	flags = append(flags[:3:3], small...)
	text := s.stdout.String()
	pin := text[strings.Index(text, "sha256-raw:"):][:len("sha256-raw:")+64]
	detour(t, append(flags, "--pin", pin)...).want(t, exitOK, "goodput", "")
	detour(t, append(flags, "--pin", pin[:len(pin)-4]+"0000")...).want(t, exitFailed, "", "not the pinned one; hint: ")
	detour(t, flags...).want(t, exitFailed, "", "hint: give the relay's pin with --pin")
}

func TestBenchModes(t *testing.T) {
	s, flags := benchRelay(t, "--admit", "any")
	_, port, _ := strings.Cut(bound(t, s, "STUN"), ":")
	detour(t, append(flags, "--storm", "20")...).want(t, exitOK, "logins    20, ", "")
	detour(t, append(flags, "--stun", "200", "--stun-port", port)...).want(t, exitOK, "requests   200\nresponses  200, ", "")
	if runtime.GOOS != "linux" {
		return
	}
	pid := strconv.Itoa(os.Getpid())
	// The relay shares the tests' process, whose memory may shrink: only how the figures hang together is known.
	r := detour(t, append(flags, "--idle", "20", "--duration", "10ms", "--server-pid", pid, "--json")...)
	r.want(t, exitOK, "{\n", "")
	var got bench.IdleReport
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatalf("%v: %s", err, r.stdout)
	}
	memory := got.Server
	if memory == nil || memory.RSSBefore == 0 || memory.RSSPerPeer != float64(memory.RSSAfter-memory.RSSBefore)/20 ||
		got.Peers != 20 || got.Lost != 0 || !got.Complete {
		t.Errorf("%+v, server %+v", got, memory)
	}
}

func TestBenchFanIn(t *testing.T) {
	_, flags := benchRelay(t, "--admit", "any")
	fanIn := append(flags, "--fanin", "20", "--duration", "300ms", "--warmup", "50ms")
	detour(t, fanIn...).want(t, exitOK, "20 senders, 1400-byte packets, 20000 packets/s, TLS 1.3\n", "")
	r := detour(t, append(fanIn, "--json", "--rate", "2000")...)
	r.want(t, exitOK, "{\n", "")
	var got bench.FanInReport
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || !got.Complete || !got.Receiver.Connected || got.Receiver.Received == 0 ||
		got.RateLimit != 2000 || got.Corrupted != 0 || got.Quiet.Sent == 0 || got.Quiet.Lost+got.Beside.Lost != 0 || got.Beside.Latency.P50 == 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A relay that has another port for STUN, or none, is told from one that loses.
func TestBenchWithoutSTUN(t *testing.T) {
	_, flags := benchRelay(t, "--stun-listen", "off")
	_, port, _ := strings.Cut(flags[2], "127.0.0.1:") // TCP's: nobody has UDP's
	r := detour(t, append(flags, "--stun", "1", "--stun-port", port)...)
	r.want(t, exitFailed, "", "hint: check --stun-port")
}

func TestBenchIsRefused(t *testing.T) {
	_, flags := benchRelay(t)
	detour(t, append(flags, small...)...).want(t, exitFailed, "", "hint: start one for the test with `detour serve --admit any")
}

func TestBenchWrongCommandLine(t *testing.T) {
	for args, want := range map[string]string{
		"":                                    "no --relay is given",
		"--relay https://127.0.0.1 x":         "unexpected argument \"x\"",
		"--relay https://127.0.0.1 --pin abc": "does not begin with sha256-raw:",
		"--relay https://127.0.0.1 --storm 1 --idle 1": "give one of them",
	} {
		r := detour(t, append([]string{"bench"}, strings.Fields(args)...)...)
		r.want(t, exitUsage, "", want)
	}
	for args, want := range map[string]string{
		"--relay ftp://127.0.0.1":                                  "hint: ",
		"--relay https://192.0.2.1":                                "--this-relay-is-mine",
		"--relay https://192.0.2.1 --idle 1 --this-relay-is-mine":  "on loopback only",
		"--relay https://127.0.0.1 --pairs 0":                      "--pairs is out of bounds; hint: ",
		"--relay https://127.0.0.1 --fanin 0":                      "--fanin is out of bounds; hint: ",
		"--relay https://192.0.2.1 --fanin 1 --this-relay-is-mine": "on loopback only",
		"--relay https://127.0.0.1 --storm 0":                      "--storm is out of bounds; hint: ",
		"--relay https://127.0.0.1 --pin sha256-raw:a":             "hint: copy the relay's CertName whole",
	} {
		r := detour(t, append([]string{"bench"}, strings.Fields(args)...)...)
		r.want(t, exitFailed, "", want)
	}
}

func TestBenchProgressIsForTerminals(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if show, _ := progressOn(f); show != nil {
		t.Error("a file is shown progress")
	}
	if show, _ := progressOn(newOutput()); show != nil {
		t.Error("a buffer is shown progress")
	}
}
