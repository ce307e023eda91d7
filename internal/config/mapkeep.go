package config

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// MapSource is one entry of MapSources.
type MapSource struct {
	Place     string // a path, or an http or https URL
	TokenFile string // of a URL; empty: none
	Pin       string // of an https URL; empty: roots decide
	CAFile    string // the same; empty: the system's
}

// IsURL tells a URL from a path.
func (s MapSource) IsURL() bool { return strings.Contains(s.Place, "://") }

// MapEntries returns MapSources in the form in which they are used.
func (c Config) MapEntries() []MapSource {
	var list []MapSource
	for _, text := range joinMapSources(c.MapSources) {
		s, _ := parseMapSource(text)
		list = append(list, s)
	}
	return list
}

// MapFiles lists the files that the kept map needs of others while the relay runs.
func (c Config) MapFiles() (files []string) {
	for _, s := range c.MapEntries() {
		if !s.IsURL() {
			files = append(files, s.Place)
		}
		if s.TokenFile != "" {
			files = append(files, s.TokenFile)
		}
	}
	if c.MapTokenFile != "" {
		files = append(files, c.MapTokenFile)
	}
	return files
}

// maxMapSources bounds them: each is asked by a goroutine of its own.
const maxMapSources = 32

// mapSourceOptions lead to the field of each option.
var mapSourceOptions = map[string]func(*MapSource) *string{
	"token_file": func(s *MapSource) *string { return &s.TokenFile },
	"pin":        func(s *MapSource) *string { return &s.Pin },
	"ca_file":    func(s *MapSource) *string { return &s.CAFile },
}

// joinMapSources mends entries that were cut at their commas, as a YAML list
// without quotes does.
func joinMapSources(entries []string) []string {
	var whole []string
	for _, e := range entries {
		name, _, isOption := strings.Cut(e, "=")
		if _, known := mapSourceOptions[name]; isOption && known && len(whole) > 0 {
			whole[len(whole)-1] += "," + e
			continue
		}
		whole = append(whole, e)
	}
	return whole
}

// parseMapSource reads PLACE[,option=value...]. A comma that no option follows
// belongs to the place.
func parseMapSource(text string) (s MapSource, faults []fault) {
	parts := joinMapPlace(strings.Split(text, ","))
	s.Place = parts[0]
	for _, option := range parts[1:] {
		name, value, _ := strings.Cut(option, "=")
		field := mapSourceOptions[name](&s)
		if *field != "" || value == "" {
			faults = append(faults, bad("give it one value", "option %s of %s", name, quote(shownPlace(s.Place)))...)
		}
		*field = value
	}
	return s, faults
}

func joinMapPlace(parts []string) []string {
	place, rest := parts[0], parts[1:]
	for len(rest) > 0 {
		name, _, isOption := strings.Cut(rest[0], "=")
		if _, known := mapSourceOptions[name]; isOption && known {
			break
		}
		place, rest = place+","+rest[0], rest[1:]
	}
	return append([]string{place}, rest...)
}

// shownPlace leaves out of a URL what may be secret.
func shownPlace(place string) string {
	u, err := url.Parse(place)
	if err != nil || u.Host == "" {
		return place
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

var pinForm = regexp.MustCompile(`^sha256-raw:[0-9a-f]{64}$`)

func checkMapSources(entries []string) []fault {
	var faults []fault
	seen := map[string]bool{}
	for _, text := range joinMapSources(entries) {
		s, wrong := parseMapSource(text)
		if len(wrong) == 0 {
			wrong = checkMapSource(s)
		}
		if seen[s.Place] {
			wrong = append(wrong, bad("remove one of them", "%s is given twice", quote(shownPlace(s.Place)))...)
		}
		seen[s.Place] = true
		faults = append(faults, wrong...)
	}
	if len(seen) > maxMapSources {
		faults = append(faults, bad("merge some of them into a file", "%d sources are more than %d", len(seen), maxMapSources)...)
	}
	return faults
}

func checkMapSource(s MapSource) []fault {
	if !s.IsURL() {
		if s.TokenFile != "" || s.Pin != "" || s.CAFile != "" {
			return bad("leave them out", "%s is a file, and token_file, pin and ca_file are for URLs", quote(s.Place))
		}
		return append(required(s.Place, "name a file or a URL"), checkPath(s.Place)...)
	}
	u, err := url.Parse(s.Place)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || !printable(s.Place):
		return bad("write a path, or a URL as in https://relay.example.com/derpmap.json", "%s is not an http or https URL", quote(shownPlace(s.Place)))
	case len(s.Place) > maxURL:
		return bad("use a shorter URL", "is %d bytes long, more than %d", len(s.Place), maxURL)
	case u.Scheme != "https" && (s.Pin != "" || s.CAFile != ""):
		return bad("write https, or leave them out", "pin and ca_file of %s need https", quote(shownPlace(s.Place)))
	case s.Pin != "" && s.CAFile != "":
		return bad("keep the pin", "%s has pin and ca_file", quote(shownPlace(s.Place)))
	case s.Pin != "" && !pinForm.MatchString(s.Pin):
		return bad("copy it from that relay's map: sha256-raw: and 64 lower-case hex digits", "%s is not a pin", quote(s.Pin))
	}
	return append(checkPath(s.TokenFile), checkPath(s.CAFile)...)
}

func checkMapListen(s string) []fault {
	switch {
	case s == Off:
		return nil
	case IsUnix(s) || IsSystemd(s):
		return bad("write HOST:PORT, as in 127.0.0.1:8340", "%s is no TCP address, and derp.urls of Headscale can name no other", quote(s))
	}
	_, _, faults := splitListen(s, "8340")
	return faults
}

// MapListensBeyond reports whether map_listen can be reached from other machines.
func (c Config) MapListensBeyond() bool {
	host, _, err := net.SplitHostPort(c.MapListen)
	if err != nil || host == "localhost" {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err != nil || !ip.Unmap().IsLoopback()
}

// MapAddressSource is one entry of MapAddress.
type MapAddressSource struct {
	Kind   string // AddressDNS, AddressSTUN or AddressInterfaces
	Target string // a name, or HOST:PORT; empty of AddressInterfaces
}

// MapAddresses returns MapAddress in the form in which it is used.
func (c Config) MapAddresses() []MapAddressSource {
	var list []MapAddressSource
	for _, text := range c.MapAddress {
		kind, target, _ := strings.Cut(text, ":")
		list = append(list, MapAddressSource{kind, target})
	}
	return list
}

func checkMapAddress(entries []string) []fault {
	var faults []fault
	const most = 8 // each is asked every minute
	if len(entries) > most {
		faults = bad("remove some", "%d entries are more than %d", len(entries), most)
	}
	for i, s := range (Config{MapAddress: entries}).MapAddresses() {
		switch {
		case slices.Index(entries, entries[i]) < i:
			faults = append(faults, bad("remove one of them", "%s is given twice", quote(entries[i]))...)
		case s.Kind == AddressDNS && s.Target != "":
			faults = append(faults, checkHostname(s.Target)...)
			if _, err := netip.ParseAddr(s.Target); err == nil {
				faults = append(faults, bad("set public_ipv4 or public_ipv6 to it", "%s is an address, which does not change", quote(s.Target))...)
			}
		case s.Kind == AddressSTUN && s.Target != "":
			faults = append(faults, checkTarget(s.Target)...)
		case s.Kind == AddressInterfaces && entries[i] == AddressInterfaces:
		default:
			faults = append(faults, bad("write dns:NAME, stun:HOST:PORT or interfaces", "%s says nowhere to look", quote(entries[i]))...)
		}
	}
	return faults
}

// mapProblems finds what does not go together.
func mapProblems(c Config) []Problem {
	var list []Problem
	if c.MapTokenFile == "" && c.MapPublic {
		list = append(list, Problem{Setting: "map_public", What: "the map is not served to strangers, so it needs a token", Hint: "set map_token_file"})
	}
	if c.MapTokenFile == "" && c.MapListensBeyond() {
		list = append(list, Problem{
			Setting: "map_listen", What: "other machines can reach it, so it needs a token",
			Hint: "set map_token_file, or listen on 127.0.0.1",
		})
	}
	if len(c.MapAddress) > 0 && c.PublicIPv4.IsValid() && c.PublicIPv6.IsValid() {
		list = append(list, Problem{
			Setting: "map_address", What: "public_ipv4 and public_ipv6 say already what to publish",
			Hint: "leave out those that change",
		})
	}
	return list
}

// keeps says what the relay keeps.
func (e *explainer) keeps(c Config) {
	if c.MapWrite != "" {
		e.line("kept in the file: %s", c.MapWrite)
	}
	for _, s := range c.MapEntries() {
		e.line("with the regions of: %s", shownPlace(s.Place))
	}
	if c.MapListen != Off {
		e.line("served at: http://%s/derpmap.json", c.MapListen)
	}
	if c.MapPublic {
		e.line("served to who has the token: /derpmap.json at the relay's own port")
	}
}

// followed says where an address is learned that is not set.
func (c Config) followed(ip netip.Addr) string {
	if ip.IsValid() || len(c.MapAddress) == 0 {
		return ipWords(ip)
	}
	return "as it changes, by " + strings.Join(c.MapAddress, ", ")
}
