package probe

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/key"
)

// State is what a check has come to.
type State string

// The states of a Finding.
const (
	Passed  State = "pass"
	Warned  State = "warn" // it works, and something should be mended
	Failed  State = "fail"
	Skipped State = "skipped" // not tried, because of an earlier failure or because there is nothing to try
)

// Finding is what one check has found, in the language of the DoctorOptions.
type Finding struct {
	Check    string `json:"check"` // fixed word
	Title    string `json:"title"`
	State    State  `json:"state"`
	Code     string `json:"code"`            // fixed word for what was found
	Evidence string `json:"evidence"`        // one line
	Cause    string `json:"cause,omitempty"` // of a warning or failure: what most likely is behind it
	Next     string `json:"next,omitempty"`  // of a warning or failure: what to do
	// After is the check whose failure is why this one was not tried.
	After string `json:"after,omitempty"`
}

// Diagnosis is what a doctor has found at one node, in the order of cause and effect.
type Diagnosis struct {
	Node     string    `json:"node"`
	Region   int       `json:"region,omitempty"`
	Host     string    `json:"host"`
	Port     uint16    `json:"port"`
	Findings []Finding `json:"findings"`
	Took     float64   `json:"seconds"`
}

// Worst is the first failure, or else the first warning; false when there is none.
func (d Diagnosis) Worst() (Finding, bool) {
	for _, s := range []State{Failed, Warned} {
		if i := slices.IndexFunc(d.Findings, func(f Finding) bool { return f.State == s }); i >= 0 {
			return d.Findings[i], true
		}
	}
	return Finding{}, false
}

// Failed reports whether a check has failed.
func (d Diagnosis) Failed() bool {
	f, ok := d.Worst()
	return ok && f.State == Failed
}

// Times of a doctor.
const (
	doctorPatience = 5 * time.Second
	doctorLimit    = 45 * time.Second
	// longWait is how long a keepalive is waited for: relays send one every 60 to 65 seconds.
	longWait = 75 * time.Second
)

// DoctorOptions say what to look at and what is known of it.
type DoctorOptions struct {
	World World
	Node  *derpmap.Node
	// Known: Node is of a map that clients have. Otherwise only its host and port
	// are known, and what else clients need is found out.
	Known bool
	Plain bool // HTTP without TLS, as a proxy speaks it to a relay behind it
	Lang  string

	// Token holds keys that the relay lets in; nil: none.
	Token *Token
	// Invite has the relay let two keys in for a minute; nil: nobody can be asked.
	Invite func(ctx context.Context, keys []key.Public) error
	// Member is a key of which Vouch tells whether the relay admits it; zero: none.
	Member key.Public
	Vouch  func(ctx context.Context, k key.Public) (bool, error)
	Local  *Local // of a relay on this host; nil: it is elsewhere

	Long     bool          // wait for a keepalive
	Patience time.Duration // for one step; 0: 5 s
	Limit    time.Duration // for all, but what Long takes; 0: 45 s
	LongWait time.Duration // 0: 75 s
}

// outcome is what a check has come to, to be put into words.
type outcome struct {
	state State
	code  string
	args  []any // strings
}

func pass(code string, args ...any) outcome { return outcome{Passed, code, args} }
func warn(code string, args ...any) outcome { return outcome{Warned, code, args} }
func fail(code string, args ...any) outcome { return outcome{Failed, code, args} }

// skip is for what there is nothing to try of.
func skip(code string, args ...any) outcome { return outcome{Skipped, code, args} }

// check is one step of a visit. It runs when those that it needs have ended without
// a failure, whatever stands before it in the table.
type check struct {
	id    string
	needs []string
	run   func(v *visit, ctx context.Context) outcome
}

// visit is one doctor at one node. What a check writes, those that need it read.
type visit struct {
	o    DoctorOptions
	node *derpmap.Node // what clients believe, completed by what was found

	addrs [2][]string  // by dns: of IPv4 and IPv6, with the port
	tcp   [2]reached   // by tcp4 and tcp6
	addr  string       // by tcp4 or tcp6: what all others dial
	hello hello        // by tls
	head  answerHead   // by clock
	greet []greeting   // by http
	guest stranger     // by login
	peers [2]*Peer     // by relay.login
	stun  []stunAnswer // by stun

	raced sync.Once // guards tcp and addr

	mu    sync.Mutex
	metas []key.Public // guarded by mu; the different ones that meta certificates have named
}

// Examine visits one node and reports what it found, at the latest when
// DoctorOptions.Limit is over. It never fails: what cannot be done is a finding.
func Examine(ctx context.Context, o DoctorOptions) Diagnosis {
	start := time.Now()
	o.Patience = cmp.Or(o.Patience, doctorPatience)
	o.Limit = cmp.Or(o.Limit, doctorLimit)
	o.LongWait = cmp.Or(o.LongWait, longWait)
	limit := o.Limit
	if o.Long {
		limit += o.LongWait
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	node := *o.Node
	v := &visit{o: o, node: &node}
	d := Diagnosis{Node: node.Name, Region: node.RegionID, Host: node.HostName, Port: DERPPort(&node), Findings: v.walk(ctx, v.checks())}
	for _, p := range v.peers {
		if p != nil {
			_ = p.Close() // it has served
		}
	}
	d.Took = time.Since(start).Seconds()
	return d
}

// checks is the table of what is looked at, in the order of the report.
func (v *visit) checks() []check {
	table := []check{
		{"local", nil, (*visit).checkLocal},
		{"map", nil, (*visit).checkMap},
		{"dns", nil, (*visit).checkDNS},
	}
	if !v.node.STUNOnly {
		table = append(table, relayChecks...)
	}
	table = append(table, stunChecks...)
	if !v.node.STUNOnly {
		table = append(table, laterChecks...)
	}
	return append(table, hostChecks...)
}

var relayChecks = []check{
	{"tcp4", []string{"dns"}, (*visit).checkTCP4},
	{"tcp6", []string{"dns"}, (*visit).checkTCP6},
	{"tls", []string{"tcp4", "tcp6"}, (*visit).checkTLS},
	{"clock", []string{"tls"}, (*visit).checkClock},
	{"tls.dates", []string{"clock"}, (*visit).checkDates},
	{"tls.trust", []string{"map", "tls.dates"}, (*visit).checkTrust},
	{"tls.sni", []string{"tls"}, (*visit).checkSNI},
	{"http", []string{"tls"}, (*visit).checkUpgrade},
	{"derp.key", []string{"http", "clock", "tls.sni"}, (*visit).checkServerKey},
	{"faststart", []string{"derp.key"}, (*visit).checkFastStart},
	{"login", []string{"faststart", "tls.trust"}, (*visit).checkLogin},
	{"relay.login", []string{"login"}, (*visit).checkProbes},
	{"relay.small", []string{"relay.login"}, passes(1, "relay.small")},
	{"relay.usual", []string{"relay.small"}, passes(1400, "relay.usual")},
	{"relay.large", []string{"relay.usual"}, passes(1<<16, "relay.large")},
	{"relay.disco", []string{"relay.large"}, (*visit).checkDisco},
	{"ping", []string{"relay.login"}, (*visit).checkPing},
	{"keepalive", []string{"relay.disco", "ping"}, (*visit).checkKeepAlive},
}

var laterChecks = []check{
	{"portal", []string{"tcp4", "tcp6"}, (*visit).checkPortal},
	{"admission", []string{"login"}, (*visit).checkStranger},
	{"member", nil, (*visit).checkMember},
	{"renewal", []string{"tls.dates"}, (*visit).checkRenewal},
	{"version", []string{"clock", "http"}, (*visit).checkVersion},
}

// slot is where the result of one check appears.
type slot struct {
	done    chan struct{} // closed when found is there
	found   Finding
	blocked string // the check whose failure is why this one was not tried
}

// walk runs all checks, each as soon as it can.
func (v *visit) walk(ctx context.Context, table []check) []Finding {
	slots := make(map[string]*slot, len(table))
	for _, c := range table {
		slots[c.id] = &slot{done: make(chan struct{})}
	}
	var running sync.WaitGroup
	for _, c := range table {
		running.Go(func() {
			s := slots[c.id]
			defer close(s.done)
			for _, need := range c.needs {
				before := slots[need]
				<-before.done
				switch {
				case s.blocked != "":
				case before.found.State == Failed:
					s.blocked = need
				case before.blocked != "":
					s.blocked = before.blocked
				}
			}
			s.found = v.find(ctx, c, s.blocked)
		})
	}
	running.Wait()
	findings := make([]Finding, 0, len(table))
	for _, c := range table {
		if f := slots[c.id].found; f.Code != notApplicable {
			findings = append(findings, f)
		}
	}
	return findings
}

// notApplicable is the code of what is not even worth a line.
const notApplicable = "n/a"

// find runs one check, unless it is blocked, and puts it into words.
func (v *visit) find(ctx context.Context, c check, blocked string) Finding {
	var out outcome
	switch {
	case blocked != "":
		out = skip("after", title(v.o.Lang, blocked))
	case ctx.Err() != nil:
		out = skip("late")
	default:
		out = c.run(v, ctx)
	}
	f := Finding{Check: c.id, Title: title(v.o.Lang, c.id), State: out.state, Code: out.code, After: blocked}
	if out.code == notApplicable {
		return f
	}
	w := wordsOf(v.o.Lang, out.code)
	f.Evidence = fill(w.says, out.args)
	if out.state == Warned || out.state == Failed {
		f.Cause, f.Next = fill(w.cause, out.args), fill(w.next, out.args)
	}
	return f
}

// fill puts args into a text that need not use all of them.
func fill(text string, args []any) string {
	if len(args) == 0 {
		return text
	}
	return fmt.Sprintf(text+"%.0[1]s", args...) // an index anywhere lets the others be unused
}

// step is ctx with the time that one step may take.
func (v *visit) step(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, v.o.Patience)
}

func (v *visit) now() time.Time { return v.o.World.now() }

// port is the TCP port as text.
func (v *visit) port() string { return strconv.Itoa(int(DERPPort(v.node))) }

// url is how people name the relay.
func (v *visit) url() string {
	scheme, usual := "https", "443"
	if v.o.Plain {
		scheme, usual = "http", "80"
	}
	if v.port() == usual {
		return scheme + "://" + v.node.HostName
	}
	return scheme + "://" + net.JoinHostPort(v.node.HostName, v.port())
}
