package compat

import (
	"flag"
	"fmt"
	"math"
	"path/filepath"
	"time"
)

// The certificate modes of -certmode.
const (
	certManual      = "manual"
	certLetsEncrypt = "letsencrypt"
	certGCP         = "gcp"
)

// flags holds the values of those derper flags that are carried out. The others
// are only known to the flag set, see unsupported.
type flags struct {
	dev, version, stun, derp bool

	addr               string
	httpPort, stunPort int // TCP and UDP; httpPort below 0: off

	keyFile, meshKeyFile                 string
	certMode, certDir, hostname          string
	home                                 string
	acmeEmail, acmeKeyID, acmeKey        string
	acmeIPs                              bool
	verify, failOpen                     bool
	socket, verifyURL                    string
	keepAlive, userTimeout, writeTimeout time.Duration
	acceptLimit                          float64 // connections a second
	acceptBurst                          int
}

// register returns a flag set that knows every flag of derper 1.102 with its
// default there; cacheDir and home are the user's directories, or empty.
// Source: derper's -h, and a derper driven by hand.
func (f *flags) register(cacheDir, home string) *flag.FlagSet {
	certDir := ""
	if cacheDir != "" {
		certDir = filepath.Join(cacheDir, "tailscale", "derper-certs")
	}
	s := flag.NewFlagSet("detour derper", flag.ContinueOnError)
	s.Usage = func() {} // written by printUsage

	s.BoolVar(&f.dev, "dev", false, "serve plain HTTP on :3340 with a new server key at each start")
	s.BoolVar(&f.version, "version", false, "print the version and exit")
	s.StringVar(&f.addr, "a", ":443", "TCP `address`; TLS on port 443 or with -certmode manual, else plain HTTP")
	s.IntVar(&f.httpPort, "http-port", 80, "TCP `port` of plain HTTP beside TLS; -1 for none")
	s.IntVar(&f.stunPort, "stun-port", 3478, "UDP `port` of STUN")
	s.BoolVar(&f.stun, "stun", true, "answer STUN")
	s.BoolVar(&f.derp, "derp", true, "relay packets (false: not supported yet)")
	s.StringVar(&f.keyFile, "c", "", "`file` of the server key, made when missing; as root "+rootKeyFile+" by default")
	s.StringVar(&f.certMode, "certmode", certLetsEncrypt, "manual, letsencrypt, or gcp (Google's authority)")
	s.StringVar(&f.certDir, "certdir", certDir, "`directory` of <hostname>.crt and <hostname>.key")
	s.StringVar(&f.hostname, "hostname", "derp.tailscale.com", "domain or IP `name` that clients dial; with TLS it must be given")
	s.StringVar(&f.acmeEmail, "acme-email", "", "ACME contact `address`")
	s.StringVar(&f.acmeKeyID, "acme-eab-kid", "", "ACME external account key `id`")
	s.StringVar(&f.acmeKey, "acme-eab-key", "", "ACME external account `key`, in base64")
	s.BoolVar(&f.acmeIPs, "acme-ip-certs", false, "with -certmode letsencrypt, let -hostname be an IP address")
	s.StringVar(&f.home, "home", "", "front page: empty for a neutral one, blank, or a `URL` to redirect to")
	s.StringVar(&f.meshKeyFile, "mesh-psk-file", "", "`file` of the mesh key; by default the first there is of "+
		"/home/derp/keys/derp-mesh.key and $HOME/keys/derp-mesh.key")
	s.DurationVar(&f.keepAlive, "tcp-keepalive-time", 10*time.Minute, "idle time before TCP keepalive probes")
	s.DurationVar(&f.userTimeout, "tcp-user-timeout", 15*time.Second, "how long sent bytes may stay unacknowledged")
	s.DurationVar(&f.writeTimeout, "tcp-write-timeout", 2*time.Second, "how long a peer may take no byte; 0 for no limit")
	s.BoolVar(&f.verify, "verify-clients", false, "admit only nodes that the local tailscaled knows")
	s.StringVar(&f.socket, "socket", "", "`path` of tailscaled's socket, for -verify-clients")
	s.StringVar(&f.verifyURL, "verify-client-url", "", "admit only nodes that this `URL` allows; with -verify-clients both must")
	s.BoolVar(&f.failOpen, "verify-client-url-fail-open", true, "admit when -verify-client-url cannot be reached")
	s.Float64Var(&f.acceptLimit, "accept-connection-limit", math.Inf(1), "new connections per second; those above are refused")
	s.IntVar(&f.acceptBurst, "accept-connection-burst", math.MaxInt, "new connections at once, above which -accept-connection-limit holds")
	registerUnsupported(s, home)
	return s
}

func registerUnsupported(s *flag.FlagSet, home string) {
	const not = " (not supported yet)"
	secretsCache := ""
	if home != "" {
		secretsCache = filepath.Join(home, ".cache", "derper-secrets")
	}
	s.String("mesh-with", "", "sibling relays as `host[/dialhost],...`"+not)
	s.String("bootstrap-dns-names", "", "`names` to answer /bootstrap-dns for"+not)
	s.String("unpublished-bootstrap-dns-names", "", "`names` answered only when asked for"+not)
	s.String("secrets-url", "", "`URL` of a setec server that holds the mesh key"+not)
	s.String("secrets-path-prefix", "prod/derp", "`prefix` of names on the setec server"+not)
	s.String("secrets-cache-dir", secretsCache, "`directory` for secrets from the setec server"+not)
	s.String("rate-config", "", "`file` of receive limits in JSON"+not)
	s.Bool("ace", false, "CONNECT proxy"+not)
}

// unsupported lists the flags that derper has and Detour does not carry out
// yet, and what to do about each. They are refused when not at their default.
var unsupported = []struct{ flag, hint string }{
	{"mesh-with", "drop it: this relay then is the only one of its region"},
	{"bootstrap-dns-names", "drop it: clients go on to other servers for it"},
	{"unpublished-bootstrap-dns-names", "drop it: clients go on to other servers for it"},
	{"secrets-url", "put the mesh key into a file and give -mesh-psk-file"},
	{"secrets-path-prefix", "put the mesh key into a file and give -mesh-psk-file"},
	{"secrets-cache-dir", "put the mesh key into a file and give -mesh-psk-file"},
	{"rate-config", "drop it: peers are then not limited"},
	{"ace", "drop it: no proxy for CONNECT is offered"},
}

// refuseUnsupported never prints values: some are secrets.
func (c *command) refuseUnsupported() {
	for _, u := range unsupported {
		if f := c.set.Lookup(u.flag); f.Value.String() != f.DefValue {
			c.fail("%s: not supported yet; hint: %s", c.ref(u.flag), u.hint)
		}
	}
	if !c.derp {
		c.fail("%s: a relay without DERP is not supported yet; "+
			"hint: `detour serve --listen off` answers STUN alone", c.ref("derp"))
	}
}

func (c *command) printUsage() {
	w := c.host.Usage
	fmt.Fprint(w, "Usage: detour derper [flags]\n\n"+
		"Runs Detour from derper's command line. Booleans need =, as in -stun=false.\n\nFlags:\n")
	c.set.SetOutput(w)
	c.set.PrintDefaults()
	fmt.Fprint(w, "\nVariables, for flags that are not given:\n")
	for _, v := range variables {
		fmt.Fprintf(w, "  %-33s -%s\n", v.name, v.flag)
	}
}
