package probe

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Local is what is known of a relay on this host.
type Local struct {
	// Down is why the relay cannot be asked; nil: it can.
	Down     error
	Addr     string // where its listener can be dialled on this host; empty: unknown
	STUN     string // where its STUN can be asked on this host; empty: unknown
	Version  string
	Problems []string // what it says of its own health
	// PID is the relay's process; 0: unknown. Root is the root of the file system,
	// of which kernel settings are read; nil: not on this system.
	PID  int
	Root fs.FS
}

func randomPacket(size int) []byte {
	b := make([]byte, size)
	rand.Read(b)
	return b
}

func joined(list []string) string { return strings.Join(list, ", ") }

func isUnreachable(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// checkLocal asks whether the relay on this host runs, and what it says of itself.
func (v *visit) checkLocal(context.Context) outcome {
	l := v.o.Local
	switch {
	case l == nil:
		return skip(notApplicable)
	case l.Down != nil:
		return fail("local.down", oneLine(l.Down))
	case len(l.Problems) > 0:
		return warn("local.unwell", strings.Join(l.Problems, "; "))
	}
	return pass("local.well", l.Version)
}

// checkStranger says whether the relay is open.
func (v *visit) checkStranger(context.Context) outcome {
	switch {
	case v.guest.admitted:
		return warn("admission.open")
	case v.guest.refused:
		return pass("admission.refuses")
	}
	return pass("admission.waits")
}

// checkMember asks the relay about one key.
func (v *visit) checkMember(ctx context.Context) outcome {
	switch {
	case v.o.Member.IsZero():
		return skip(notApplicable)
	case v.o.Vouch == nil:
		return skip("member.elsewhere")
	case v.o.Local != nil && v.o.Local.Down != nil:
		return skip("member.elsewhere")
	}
	step, cancel := v.step(ctx)
	defer cancel()
	k := v.o.Member.String()
	switch ok, err := v.o.Vouch(step, v.o.Member); {
	case err != nil:
		return warn("member.unknown", k, oneLine(err))
	case !ok:
		return fail("member.refused", k)
	}
	return pass("member.in", k)
}

// checkRenewal looks how long the certificate lasts still.
func (v *visit) checkRenewal(context.Context) outcome {
	if v.o.Plain {
		return skip(notApplicable)
	}
	leaf, now := v.hello.own[0], v.now()
	left, life := leaf.NotAfter.Sub(now), leaf.NotAfter.Sub(leaf.NotBefore)
	days := func(d time.Duration) string { return strconv.Itoa(int(d / day)) }
	early := min(7*day, life/6) // an authority's is renewed at a third of its life or before
	if selfSigned(leaf) {
		early = 60 * day // people have to paste the map anew
	}
	switch {
	case left < early && selfSigned(leaf) && left < life/2:
		return warn("renewal.pin", days(left))
	case left < early && !selfSigned(leaf):
		return warn("renewal.late", days(left), days(now.Sub(leaf.NotBefore)))
	}
	return pass("renewal.good", days(now.Sub(leaf.NotBefore)), days(left))
}

// checkVersion says what answers there.
func (v *visit) checkVersion(context.Context) outcome {
	said := v.greet
	version, server := "-", v.head.server
	if len(said) > 0 && said[0].header.Get("Derp-Version") != "" {
		version = said[0].header.Get("Derp-Version")
	}
	if server == "" {
		server = "-"
	}
	if v.o.Local != nil && v.o.Local.Version != "" {
		return pass("version.local", v.o.Local.Version, version)
	}
	return pass("version.remote", version, server)
}

var hostChecks = []check{
	{"host.files", nil, (*visit).checkFiles},
	{"host.backlog", nil, (*visit).checkBacklog},
	{"host.buffers", nil, (*visit).checkBuffers},
	{"host.conntrack", nil, (*visit).checkConntrack},
}

// host reads a number of the kernel's; false where there is none.
func (v *visit) host(path string) (n int64, ok bool) {
	if v.o.Local == nil || v.o.Local.Root == nil {
		return 0, false
	}
	b, err := fs.ReadFile(v.o.Local.Root, path)
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(b))
	if len(fields) == 0 {
		return 0, false
	}
	n, err = strconv.ParseInt(fields[len(fields)-1], 10, 64) // of several, the last is the most
	return n, err == nil
}

func digits(n int64) string { return strconv.FormatInt(n, 10) }

// checkFiles looks how many connections the relay may hold.
func (v *visit) checkFiles(context.Context) outcome {
	l := v.o.Local
	if l == nil || l.Root == nil || l.PID == 0 {
		return skip(notApplicable)
	}
	b, err := fs.ReadFile(l.Root, "proc/"+strconv.Itoa(l.PID)+"/limits")
	if err != nil {
		return skip("host.unknown", oneLine(err))
	}
	const least = 4096
	for line := range strings.Lines(string(b)) {
		rest, ok := strings.CutPrefix(line, "Max open files")
		if !ok {
			continue
		}
		soft := strings.Fields(rest)
		if len(soft) == 0 {
			break
		}
		if n, err := strconv.ParseInt(soft[0], 10, 64); err == nil && n < least {
			return warn("host.files", digits(n))
		}
		return pass("host.files_good", soft[0])
	}
	return skip(notApplicable)
}

// checkBacklog looks how many connections may wait to be accepted.
func (v *visit) checkBacklog(context.Context) outcome {
	n, ok := v.host("proc/sys/net/core/somaxconn")
	const least = 1024
	switch {
	case !ok:
		return skip(notApplicable)
	case n < least:
		return warn("host.backlog", digits(n))
	}
	return pass("host.backlog_good", digits(n))
}

// checkBuffers looks how large the buffers of sockets may grow.
func (v *visit) checkBuffers(context.Context) outcome {
	r, ok := v.host("proc/sys/net/ipv4/tcp_rmem")
	w, ok2 := v.host("proc/sys/net/ipv4/tcp_wmem")
	const least = 1 << 20 // bytes
	switch {
	case !ok || !ok2:
		return skip(notApplicable)
	case r < least || w < least:
		return warn("host.buffers", digits(r), digits(w))
	}
	return pass("host.buffers_good", digits(r), digits(w))
}

// checkConntrack looks how full the firewall's table is.
func (v *visit) checkConntrack(context.Context) outcome {
	n, ok := v.host("proc/sys/net/netfilter/nf_conntrack_count")
	most, ok2 := v.host("proc/sys/net/netfilter/nf_conntrack_max")
	switch {
	case !ok || !ok2 || most == 0:
		return skip(notApplicable)
	case n*10 > most*8:
		return warn("host.conntrack", digits(n), digits(most))
	}
	return pass("host.conntrack_good", digits(n), digits(most))
}
