package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/bench"
	"github.com/detour-relay/detour/internal/client"
)

const benchHelp = `Measure a relay from outside, with clients that log in under fresh keys: it must admit them. Pairs of clients exchange
numbered packets with checksums, and what is lost, reordered, duplicated or corrupted on the way is counted, besides
speed and latency.

  detour serve --admit any --listen 127.0.0.1:18443 --state-dir /tmp/bench-relay     the relay to measure
  detour bench --relay https://127.0.0.1:18443 --insecure --server-pid PID           as fast as it goes
  detour bench --relay https://127.0.0.1:18443 --insecure --flush-each --rate 20000  a steady load, sent as nodes do

Without --rate every pair keeps a window of packets under way, so the relay is busy and hardly loses any. To offer more
than a relay can carry, use --window 0 with a --rate or without.

With --fanin, 20 for example, that many senders send to one receiver that reads only 20 KB/s, and a pair that has
nothing to do with it sends 1000 small packets/s: its latency and loss are measured for the --duration without the
fan-in and then under it. Whether the relay keeps the slow receiver is reported, and is no failure.

With --attack a quiet pair is measured alone, and then beside logins of strangers, garbage, slow and half-open clients and
a flood from the lobby. The relay is to be closed but for the two --quiet-key, with a second port for the attackers,
which --attack-through names: there they send PROXY headers, since a relay does not bound loopback. scripts/attack.sh
starts one so.

Off loopback it wants --this-relay-is-mine and keeps to bounds: 1000 packets/s unless --rate says otherwise, 20000 at
most, 100 pairs, a minute. --fanin, --idle, --storm, --stun and --attack work on loopback only. Ctrl-C ends a run early and
reports what was measured. The table, or with --json one object, is all that standard output gets. The exit status is 1
when a connection failed or a packet arrived corrupted.`

// benchFlags are the flags of detour bench.
type benchFlags struct {
	relay, pin               string
	insecure, tls12          bool
	mine, json               bool
	serverPID                int
	load                     bench.Load
	fanIn, idle, storm, stun int
	stunPort                 uint16
	attack                   attackFlags
}

func benchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a relay: speed, latency, loss, and what it costs",
		Long:  benchHelp,
		Args:  noArguments(),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.relay, "relay", "", "`URL` of the relay: https://HOST[:PORT], or http:// without TLS")
	fl.StringVar(&f.pin, "pin", "", "accept only the certificate with this `pin`, sha256-raw:…")
	fl.BoolVar(&f.insecure, "insecure", false, "accept any certificate")
	fl.BoolVar(&f.tls12, "tls12", false, "offer TLS 1.2 only")
	fl.BoolVar(&f.mine, "this-relay-is-mine", false, "load a relay off loopback, within bounds")
	fl.IntVar(&f.serverPID, "server-pid", 0, "process `id` of a relay on this machine, to report its CPU time and memory (Linux)")
	fl.BoolVar(&f.json, "json", false, "print one JSON object in place of the table")
	fl.IntVar(&f.load.Pairs, "pairs", 10, "`number` of pairs of clients")
	fl.IntVar(&f.load.Size, "size", 1400, "`bytes` in a packet")
	fl.Float64Var(&f.load.Rate, "rate", 0, "`packets` per second over all pairs or senders; 0 is as fast as possible (with --fanin default 20000)")
	fl.DurationVar(&f.load.Duration, "duration", 5*time.Second, "`time` to measure, with --fanin twice, or with --idle to wait")
	fl.DurationVar(&f.load.Warmup, "warmup", time.Second, "`time` under load before that")
	fl.IntVar(&f.load.Window, "window", 16, "most `packets` under way in each pair; 0 is no limit")
	fl.BoolVar(&f.load.FlushEach, "flush-each", false, "make each packet a TLS record of its own, as nodes do")
	fl.IntVar(&f.fanIn, "fanin", 0, "measure a pair beside this `number` of senders to one slow receiver instead")
	fl.IntVar(&f.idle, "idle", 0, "measure memory with this `number` of idle peers instead; needs --server-pid")
	fl.IntVar(&f.storm, "storm", 0, "measure this `number` of logins instead, 16 at a time")
	fl.IntVar(&f.stun, "stun", 0, "measure this `number` of STUN requests instead")
	f.attack.register(fl)
	fl.Uint16Var(&f.stunPort, "stun-port", 3478, "UDP `port` of the relay's STUN server")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.relay == "" {
			return wrongUsage(cmd, "no --relay is given")
		}
		modes := 0
		for _, mode := range []string{"fanin", "idle", "storm", "stun", "attack"} {
			if cmd.Flags().Changed(mode) {
				modes++
			}
		}
		if modes > 1 {
			return wrongUsage(cmd, "--fanin, --idle, --storm, --stun and --attack measure different things: give one of them")
		}
		return f.run(cmd)
	}
	return cmd
}

// run measures, and prints what was measured even if it failed half-way.
func (f *benchFlags) run(cmd *cobra.Command) error {
	o, err := client.ParseURL(f.relay)
	if err != nil {
		return err
	}
	if f.pin != "" && !strings.HasPrefix(f.pin, client.PinPrefix) {
		return wrongUsage(cmd, fmt.Sprintf("--pin %q does not begin with %s", f.pin, client.PinPrefix))
	}
	o.CertName, o.Insecure = f.pin, f.insecure
	show, wipe := progressOn(cmd.ErrOrStderr())
	t := bench.Target{Client: o, TLS12: f.tls12, Mine: f.mine, ServerPID: f.serverPID, Progress: show}
	report, measured, err := f.measure(cmd.Context(), cmd, t)
	wipe()
	if measured {
		print := bench.WriteTable
		if f.json {
			print = bench.WriteJSON
		}
		if printErr := print(cmd.OutOrStdout(), report); printErr != nil && err == nil {
			err = fmt.Errorf("print the report: %w", printErr)
		}
	}
	return err
}

// measure does what the flags ask for, and reports whether anything was measured.
func (f *benchFlags) measure(ctx context.Context, cmd *cobra.Command, t bench.Target) (report bench.Report, measured bool, err error) {
	changed := cmd.Flags().Changed
	if !changed("stun") && !f.attack.on { // an attack has keys of its own
		if err := t.CheckAdmitted(ctx); err != nil {
			return nil, false, err
		}
	}
	switch {
	case changed("fanin"):
		if !changed("rate") {
			f.load.Rate = bench.FanInRate
		}
		r, err := bench.FanIn(ctx, t, f.fanIn, f.load)
		return r, r.Quiet.Sent > 0, intact(r.Corrupted, err)
	case changed("idle"):
		r, err := bench.Idle(ctx, t, f.idle, f.load.Duration)
		return r, r.Seconds > 0, err
	case changed("storm"):
		r, err := bench.Storm(ctx, t, f.storm)
		return r, r.Seconds > 0, err
	case f.attack.on:
		o, err := f.attack.options(f.load)
		if err != nil {
			return nil, false, err
		}
		r, err := bench.Attack(ctx, t, o)
		return r, len(r.Attacks) > 0, err
	case changed("stun"):
		r, err := bench.STUN(ctx, t, f.stunPort, f.stun)
		return r, r.Responses > 0, err
	}
	r, err := bench.Pairs(ctx, t, f.load)
	return r, r.Sent > 0, intact(r.Corrupted, err)
}

// intact makes an error of corrupted packets, unless there is one.
func intact(corrupted uint64, err error) error {
	if err == nil && corrupted > 0 {
		return fmt.Errorf("%d packets arrived corrupted; hint: nothing between two peers may change a packet: look at the relay's memory, and report it", corrupted)
	}
	return err
}

// progressOn shows one line that changes, on a terminal only. wipe removes it.
func progressOn(w io.Writer) (show func(line string), wipe func()) {
	f, ok := w.(*os.File)
	if !ok {
		return nil, func() {}
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil, func() {}
	}
	const startOfLine = "\r\x1b[K" // carriage return, erase to the end of the line
	return func(line string) { fmt.Fprint(f, startOfLine, line) }, func() { fmt.Fprint(f, startOfLine) }
}
