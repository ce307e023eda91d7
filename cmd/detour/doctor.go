package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/probe"
)

const doctorHelp = `Find out why a relay does not work. The way of a real client is gone step by step: DNS, TCP, TLS and the certificate,
the HTTP upgrade, the login, packets of several sizes between two clients both ways, pings, STUN, port 80, admission,
and on the relay's own host its health and the kernel's settings. What is wrong comes with its likely cause and what to
do next.

  detour doctor                                the relay on this host; takes the flags of detour serve
  detour doctor https://relay.example.com      one relay, from anywhere
  detour doctor --map derp.yaml --region lab   the relays of a map (a file or URL), as clients have it

A closed relay lets no strange keys in. On its host doctor has the relay admit two for a minute; elsewhere it needs the
file that detour admit probe-token prints. Without either the packets are left out, and all else is looked at.

The exit status is 0 when nothing failed (warnings count as nothing), 1 when something did, 2 when doctor could not run.`

// doctoring is what detour doctor was told.
type doctoring struct {
	settings *settings

	mapAt, region, node string
	certName            string
	tokenFile, member   string
	lang                string
	long, json          bool
}

func doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [URL]",
		Short: "Find out why a relay does not work, and what to do about it",
		Long:  doctorHelp,
		Args:  arguments(0, 1, "relay"),
	}
	d := &doctoring{settings: bindSettings(cmd)}
	f := cmd.Flags()
	f.StringVar(&d.mapAt, "map", "", "`file or URL` of a DERP map whose relays are looked at, in any form; - for standard input")
	f.StringVar(&d.region, "region", "", "code or id of the map's region to look at")
	f.StringVar(&d.node, "node", "", "name of the map's node to look at")
	f.StringVar(&d.certName, "cert-name", "", "CertName that the map has for the relay at the URL")
	f.StringVar(&d.tokenFile, "token-file", "", "`file` with what detour admit probe-token has printed on the relay's host")
	f.StringVar(&d.member, "node-key", "", "node key of which the relay on this host is asked whether it admits it")
	f.StringVar(&d.lang, "lang", "", "language of the report: en or zh (default by LANG)")
	f.BoolVar(&d.long, "long", false, "wait for a keepalive too, which takes a minute")
	f.BoolVar(&d.json, "json", false, "print the report as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		failed, err := d.run(cmd, args)
		switch {
		case err != nil:
			return &cannotError{err}
		case failed:
			return errReported
		}
		return nil
	}
	return cmd
}

func (d *doctoring) run(cmd *cobra.Command, args []string) (failed bool, err error) {
	if d.lang == "" {
		d.lang = probe.Language(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_MESSAGES"), os.Getenv("LANG")))
	}
	if d.lang != "en" && d.lang != probe.Chinese {
		return false, fmt.Errorf("--lang %q is unknown; hint: use en or zh", d.lang)
	}
	visits, err := d.visits(cmd, args)
	if err != nil {
		return false, err
	}
	results := examineAll(cmd.Context(), visits)
	for _, r := range results {
		failed = failed || r.Failed()
	}
	if d.json {
		return failed, printJSON(cmd.OutOrStdout(), map[string]any{"language": d.lang, "failed": failed, "relays": results})
	}
	for i, r := range results {
		if i > 0 {
			fmt.Fprintln(cmd.OutOrStdout())
		}
		if err := r.Print(cmd.OutOrStdout(), d.lang); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// visits says what is looked at.
func (d *doctoring) visits(cmd *cobra.Command, args []string) ([]probe.DoctorOptions, error) {
	common := probe.DoctorOptions{Lang: d.lang, Long: d.long}
	if d.tokenFile != "" {
		text, err := os.ReadFile(d.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w; hint: make it on the relay's host with detour admit probe-token > FILE", err)
		}
		token, err := probe.ParseToken(string(text))
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		common.Token = &token
	}
	if d.member != "" {
		k, err := key.ParsePublic(d.member)
		if err != nil {
			return nil, fmt.Errorf("--node-key: %w; hint: on the node: tailscale status --json | grep -m1 PublicKey", err)
		}
		common.Member = k
	}
	switch {
	case len(args) == 1 && d.mapAt != "":
		return nil, errors.New("a URL and --map are both given; hint: give one of them")
	case d.mapAt == "" && (d.region != "" || d.node != ""):
		return nil, errors.New("--region and --node choose from a map; hint: name it with --map")
	case len(args) == 1:
		return d.atURL(args[0], common)
	case d.mapAt != "":
		return d.ofMap(cmd, common)
	}
	return d.here(cmd.Context(), common)
}

func (d *doctoring) atURL(text string, o probe.DoctorOptions) ([]probe.DoctorOptions, error) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	c, err := client.ParseURL(text)
	if err != nil {
		return nil, err
	}
	o.Plain = c.Plain
	o.Node = &derpmap.Node{HostName: c.Host, DERPPort: int(c.Port), CertName: d.certName}
	if c.Plain && c.Port == 0 {
		o.Node.DERPPort = 80
	}
	return []probe.DoctorOptions{o}, nil
}

// maxVisits bounds how many relays one run looks at.
const maxVisits = 16

func (d *doctoring) ofMap(cmd *cobra.Command, o probe.DoctorOptions) ([]probe.DoctorOptions, error) {
	source, err := readMap(cmd, d.mapAt, derpmap.FetchOptions{})
	if err != nil {
		return nil, err
	}
	m, err := derpmap.ParseLoose(source.form(""), source.data)
	if err != nil {
		return nil, fmt.Errorf("read the map: %w; hint: detour map check says what is wrong with it", err)
	}
	var visits []probe.DoctorOptions
	ids := make([]int, 0, len(m.Regions))
	for id, r := range m.Regions {
		if r != nil && (d.region == "" || d.region == r.RegionCode || d.region == strconv.Itoa(id)) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		for _, n := range m.Regions[id].Nodes {
			if n != nil && (d.node == "" || d.node == n.Name) {
				v := o
				v.Node, v.Known = n, true
				visits = append(visits, v)
			}
		}
	}
	switch {
	case len(visits) == 0:
		return nil, errors.New("the map has no such relay; hint: --region takes a code or an id, --node a name, as the map has them")
	case len(visits) > maxVisits:
		return nil, fmt.Errorf("the map has %d relays, more than %d; hint: choose with --region or --node", len(visits), maxVisits)
	}
	return visits, nil
}

// examineAll carries out visits, a few at a time.
func examineAll(ctx context.Context, visits []probe.DoctorOptions) []probe.Diagnosis {
	const together = 8 // a visit takes a minute at worst, and two rounds of them are 16
	results := make([]probe.Diagnosis, len(visits))
	room := make(chan struct{}, together)
	var running sync.WaitGroup
	for i, v := range visits {
		running.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			results[i] = probe.Examine(ctx, v)
		})
	}
	running.Wait()
	return results
}

// statsOfRelay is what doctor reads of GET /stats.
type statsOfRelay struct {
	Version string `json:"version"`
}

func decodeStats(text json.RawMessage) statsOfRelay {
	var s statsOfRelay
	_ = json.Unmarshal(text, &s) // a relay of another version may say less
	return s
}
