package daemon

import (
	"fmt"
	"io"
	"strings"

	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/mapkeep"
)

// Banner writes what the operator needs after a start: what runs where, what the
// firewall must let in, who is admitted, the DERP map ready to paste in three
// forms, and what to do next.
func (d *Daemon) Banner(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Detour %s is running.\n\n", d.version)
	d.whereabouts(&b)
	d.firewall(&b)
	d.admitted(&b)
	if err := d.maps(&b); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Remap writes the DERP map that takes the old one's place once Changed is closed.
func (d *Daemon) Remap(w io.Writer) error {
	b := strings.Builder{}
	b.WriteString("\nClients are shown the authority's certificate from now on, and refuse it while their map has the pin.\n\n")
	if err := d.maps(&b); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (d *Daemon) whereabouts(b *strings.Builder) {
	row := func(name, where, what string) {
		if where != config.Off && what != "" {
			what = "  (" + what + ")"
		}
		if where == config.Off {
			what = ""
		}
		fmt.Fprintf(b, "  %-6s %s%s\n", name, where, what)
	}
	if d.cfg.Listen == config.Off {
		row("relay", config.Off, "")
	}
	for i, door := range d.cfg.Doors() {
		row([]string{"relay", "also"}[min(i, 1)], door.Address, doorWords(door))
	}
	row("STUN", d.cfg.STUNListen, "UDP"+publishedAs(d.cfg.PublicSTUNPort))
	for _, s := range d.cfg.AlsoSTUNListen {
		row("also", s, "UDP")
	}
	row("HTTP", d.cfg.HTTPListen, "captive-portal check")
	row("admin", d.cfg.AdminListen, "")
	if d.cfg.MapWrite != "" {
		row("map", d.cfg.MapWrite, "the DERP map, kept for Headscale")
	}
	if d.mapServer != nil {
		row("map", "http://"+d.cfg.MapListen+mapkeep.Path, "")
	}
	held := "key"
	if d.id.cert != nil && d.cfg.CertMode != config.CertFiles {
		held = "key and certificate"
	}
	row("state", d.cfg.StateDir, "keep it: it holds the relay's "+held)
	b.WriteByte('\n')
}

// doorWords says what a door speaks, and as which port it is published.
func doorWords(d config.Door) string {
	words := "TLS"
	if !d.TLS {
		words = "plain HTTP, for a proxy that speaks TLS"
	}
	if len(d.ProxyProtocol) > 0 || d.ProxyUnix {
		words += ", PROXY protocol"
	}
	if !d.InMap {
		words += ", not in the map"
	}
	return words + publishedAs(d.PublicPort)
}

func publishedAs(port int) string {
	if port == 0 {
		return ""
	}
	return fmt.Sprintf(", published as port %d", port)
}

func (d *Daemon) firewall(b *strings.Builder) {
	type open struct {
		proto  string
		public int
		listen string
	}
	var all []open
	for _, door := range d.cfg.Doors() {
		all = append(all, open{"TCP", door.PublicPort, door.Address})
	}
	if r, err := rotationOf(d.cfg); err == nil && r.Phase != "" {
		all = append(all, open{"TCP", r.PublicPort, r.Listen})
	}
	all = append(all, open{"UDP", d.cfg.PublicSTUNPort, d.cfg.STUNListen})
	for _, s := range d.cfg.AlsoSTUNListen {
		all = append(all, open{"UDP", 0, s})
	}
	all = append(all, open{"TCP", 0, d.cfg.HTTPListen})
	var ports []string
	for _, p := range all {
		n := portOf(p.listen)
		switch {
		case p.listen == config.Off:
		case p.public != 0 && n != 0 && p.public != n:
			ports = append(ports, fmt.Sprintf("%s %d (which leads to %d here)", p.proto, p.public, n))
		case p.public != 0:
			ports = append(ports, fmt.Sprintf("%s %d", p.proto, p.public))
		case n != 0:
			ports = append(ports, fmt.Sprintf("%s %d", p.proto, n))
		}
	}
	if len(ports) == 0 {
		return // nothing but sockets of this machine
	}
	fmt.Fprintf(b, "Let in through firewalls and cloud security groups: %s.\n\n", strings.Join(ports, ", "))
}

// maps writes the three forms of the map, or why there is none.
func (d *Daemon) maps(b *strings.Builder) error {
	m, warnings, err := d.Map(false)
	if err != nil {
		what, hint, _ := strings.Cut(err.Error(), "; hint: ")
		fmt.Fprintf(b, "No DERP map yet: %s.\n", what)
		if hint != "" {
			fmt.Fprintf(b, "Next: %s.\n", hint)
		}
		return nil
	}
	for _, w := range warnings {
		fmt.Fprintf(b, "Warning: %s.\n\n", w)
	}
	b.WriteString("The DERP map of this relay, in three forms. Paste the one that fits.\n")
	for _, f := range []struct {
		title  string
		encode func(derpmap.Map) ([]byte, error)
	}{
		{"Headscale: save as a file and name it under derp.paths in Headscale's config", derpmap.Headscale},
		{"JSON: for a URL under derp.urls in Headscale's config, or any other client", derpmap.JSON},
		{"Tailscale: a member of the policy file (admin console, Access controls)", derpmap.Policy},
	} {
		text, err := f.encode(m)
		if err != nil {
			return fmt.Errorf("print the DERP map: %w", err)
		}
		fmt.Fprintf(b, "\n--- %s\n\n%s\n", f.title, strings.TrimRight(string(text), "\n"))
	}
	b.WriteString("\n---\n\nNext: paste it, let the ports in, then on a client: `tailscale netcheck` lists the region")
	if d.cfg.Listen != config.Off {
		b.WriteString(", and `tailscale ping` to another\nnode begins via DERP(" + d.cfg.RegionCode + ")")
	}
	b.WriteString(".\n")
	if d.derper {
		fmt.Fprintf(b, "To print it again: detour map %s\n", strings.Join(d.mapFlags(), " "))
		return nil
	}
	b.WriteString("A second relay needs its own --region-id. `detour map` with the same flags prints this map again, and with --for-old-clients\n" +
		"one for clients older than 1.84.\n")
	return nil
}

// mapFlags are the flags of detour map that describe this relay.
func (d *Daemon) mapFlags() []string {
	flags := []string{
		"--server-key", d.cfg.ServerKey, "--listen", d.cfg.Listen, "--stun-listen", d.cfg.STUNListen, "--http-listen", d.cfg.HTTPListen,
	}
	if d.cfg.Hostname != "" {
		flags = append(flags, "--hostname", d.cfg.Hostname)
	}
	if d.cfg.TLS {
		if d.cfg.CertMode == config.CertACME {
			flags = append(flags, "--state-dir", d.cfg.StateDir) // it says which certificate clients expect
		}
		flags = append(flags, "--cert-mode", d.cfg.CertMode)
		if d.cfg.Cert != "" {
			flags = append(flags, "--cert", d.cfg.Cert, "--key", d.cfg.Key)
		}
		for _, pair := range d.cfg.CertPair {
			flags = append(flags, "--cert-pair", pair)
		}
		return flags
	}
	return append(flags, "--tls=false")
}
