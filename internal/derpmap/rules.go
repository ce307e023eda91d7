package derpmap

// Rule is something that Check looks for.
type Rule struct {
	ID       string
	Severity Severity // unless the finding says another
	Effect   string   // unless the finding says another
	Fix      string
}

// Rules lists what Check looks for, in the order in which it looks.
func Rules() []Rule {
	return append(append(append(writingRules(), mapRules()...), regionRules()...), nodeRules()...)
}

// writingRules are about the text, not about what it says.
func writingRules() []Rule {
	return []Rule{
		{"wrong-form", Breaks, "nothing of this map reaches a client", "convert it: detour map convert"},
		{"loose-json", Breaks, "the whole map is refused: only policy files may have comments and commas before a closing bracket", "take them out, or convert the map: detour map convert --to json"},
		{"json-in-paths", Note, "Headscale reads the files of derp.paths as YAML with keys in lower case, and JSON from derp.urls alone", "serve this file from a URL, or convert it: detour map convert --to headscale"},
		{"second-document", Warns, "Headscale reads the first YAML document of a file and skips the others", "put all regions below one regions:, without ---"},
		{"key-twice", Breaks, "Headscale refuses the whole file", "keep one of the two"},
		{"misspelt-key", Breaks, "the key is skipped without a word, as if the line were not there", "correct its spelling"},
		{"unknown-key", Warns, "the key is skipped without a word", "remove it, or correct it"},
		{"quoted-number", Breaks, "Headscale refuses the whole file", "write the digits without quotes"},
		{"wrong-type", Breaks, "the whole map is refused", "write the kind of value that belongs there"},
		{"cannot-load", Breaks, "the whole map is refused", "correct what the message names"},
		{"bare-pin", Note, "it is read as it should be, until a blank after the colon makes it something else", "put the pin in double quotes"},
	}
}

func mapRules() []Rule {
	return []Rule{
		{"no-regions", Breaks, "there is no relay in it; Headscale does not start when it has no other map", "list at least one region with a node"},
		{"no-home", Breaks, "clients measure no region, so they have no home and nobody can reach them over a relay", "let at least one region be without NoMeasureNoHome"},
		{"home-params-dropped", Warns, "Headscale passes on the regions alone, so clients never see these scores", "remove them, or order the regions by other means"},
		{"omit-default-dropped", Warns, "Headscale passes on the regions alone: Tailscale's own are there for as long as derp.urls lists them", "remove the key, and Tailscale's URL from derp.urls"},
		{"omit-default-alone", Breaks, "Tailscale's own regions are taken away and nothing stands in their place", "list a region, or remove the key"},
		{"score-ignored", Warns, "a score of 0 or less is ignored", "between 0 and 1 favours the region, above 1 disfavours it; for never a home use NoMeasureNoHome"},
		{"score-unknown-region", Note, "the score has no effect until a region has that id", "correct the id, or remove the score"},
	}
}

func regionRules() []Rule {
	return []Rule{
		{"null-region", Warns, "Headscale skips a null region and removes nothing: the region stays if a URL or an earlier file has it", "take the source that lists the region out of derp.urls or derp.paths, or define the region anew here"},
		{"region-id-range", Breaks, "clients carry the id in 16 bits: they take the region for another one, or for none", "use an id from 900 to 999"},
		{"region-id-missing", Breaks, "clients take 0 for the region's id, which means no region", "set RegionID to the key of the region"},
		{"region-id-mismatch", Breaks, "clients look for the region under one id and report it under the other", "make RegionID and the key of the region the same"},
		{"region-id-reserved", Note, "ids outside 900 to 999 are Tailscale's: with its map loaded too, now or later, one region takes the place of the other", "use an id from 900 to 999"},
		{"region-999", Note, "999 is what Headscale's example gives to its own relay; while that is on with this id, it takes this region's place", "use another id, unless derp.server is off"},
		{"region-code-missing", Warns, "netcheck and ping show nothing for the region", "give it a short RegionCode"},
		{"region-code-twice", Note, "netcheck, ping and `tailscale debug derp` cannot tell the regions apart", "give each region its own RegionCode"},
		{"region-name-missing", Note, "the report of netcheck has no name for the region", "give it a RegionName"},
		{"coordinates", Warns, "nothing on earth is there", "latitude is -90 to 90, longitude -180 to 180; or leave both out"},
		{"avoid-deprecated", Warns, "deprecated: the region is still measured in full reports and may become a home", "use NoMeasureNoHome for a region that must be nobody's home, or leave it out"},
		{"no-nodes", Breaks, "the region cannot be measured or reached", "list a node, or remove the region"},
		{"null-node", Breaks, "clients that look into the node crash", "remove the empty entry"},
		{"stun-only-region", Breaks, "clients measure the region by STUN, may choose it as home, and cannot connect", "add a node without STUNOnly, or set NoMeasureNoHome"},
		{"no-stun", Warns, "clients measure it only where no region at all answers STUN, and learn no address for direct connections from it", "let one node answer STUN"},
		{"shuffled-nodes", Note, "Headscale shuffles the nodes of a region, anew at each update: no node comes first for all, and each shuffle has clients redial", "make every node as good as the others, or give each a region of its own"},
		{"mesh-needed", Note, "a client uses one node of its region: two at different nodes hear of each other only if the nodes are a mesh", "mesh the relays, or give each a region of its own"},
		{"same-relay-twice", Warns, "the second is no spare for the first", "remove one of the two, or correct its address or port"},
		{"same-relay-elsewhere", Note, "one relay stands in two regions, which are then no spare for each other", "remove it from one of them, or correct its address or port"},
	}
}

func nodeRules() []Rule {
	return []Rule{
		{"node-name-missing", Breaks, "netcheck looks nodes up by name, and does not measure the region", "give it a name, such as the region's id and a letter: 900a"},
		{"node-name-twice", Breaks, "netcheck looks nodes up by name over all regions: it measures one relay in place of the other", "give each node a name of its own"},
		{"node-region-missing", Breaks, "netcheck books what it measures under region 0, so that this region has no latency and is nobody's home", "set RegionID to that of the region"},
		{"node-region-mismatch", Breaks, "netcheck books what it measures under the other region", "set RegionID to that of the region"},
		{"hostname-missing", Breaks, "clients have no name to dial and to check the certificate against", "set HostName to the relay's domain name or address"},
		{"hostname-form", Breaks, "clients cannot dial it", "give the bare domain name or address; the port goes into DERPPort"},
		{"ipv6-hostname-443", Breaks, "clients cannot parse the URL that they make of it, and never connect", "use a domain name or an IPv4 address as HostName, or another DERPPort than 443"},
		{"host-differs", Warns, "clients dial the address in the field, not the one in HostName", "make them the same"},
		{"ip-name-unchecked", Note, "clients check only that some authority has signed the certificate, not for whom; a self-signed one they refuse", "pin the certificate: CertName sha256-raw:…"},
		{"pin-form", Breaks, "clients compare pins letter by letter, refuse the certificate and never connect", "write sha256-raw: and 64 hex digits in lower case, as `detour map` and `detour key show` print it"},
		{"certname-form", Breaks, "no certificate is for such a name, so clients refuse it", "give the domain name in the certificate, or leave CertName out when it is HostName"},
		{"insecure", Warns, "clients check no certificate: whoever is on the way can pose as the relay, see who talks to whom, and cut them off", "pin the certificate instead: CertName sha256-raw:…; clients from 1.84 on know pins"},
		{"insecure-with-pin", Note, "the pin is checked all the same by clients that know pins; older ones check nothing", "remove InsecureForTests unless there are clients older than 1.84"},
		{"family-off", Warns, "clients do not use this family for the node", "correct the address; leave it out for DNS; or say none if it is meant"},
		{"no-address", Breaks, "no address of either family is left to dial", "give an address of one family, or leave the field out for DNS"},
		{"address-impossible", Breaks, "no relay has such an address", "give the relay's public address"},
		{"address-private", Warns, "only clients within that network reach it", "give the relay's public address, unless all its clients are there"},
		{"derp-port-range", Breaks, "clients cannot dial it", "use a port from 1 to 65535; 0 or none means 443"},
		{"stun-port-range", Warns, "clients send no STUN to it", "use a port from 1 to 65535; 0 or none means 3478, -1 means no STUN"},
		{"stun-off", Note, "clients send no STUN to this node", "leave STUNPort out if it answers on 3478"},
		{"stun-only-no-stun", Warns, "the node is for STUN alone and STUN is off, so it does nothing", "remove the node, or one of the two settings"},
		{"stun-test-ip", Warns, "meant for tests: STUN goes to this address and says nothing about the relay's own", "remove STUNTestIP"},
		{"port80-no-ipv4", Warns, "clients look for captive portals at the IPv4 field alone, and it has no address", "set IPv4, or remove CanPort80"},
		{"port80-unused", Note, "clients do not use nodes of regions with Avoid or NoMeasureNoHome for it", "remove CanPort80"},
		{"port80-not-looked-at", Note, "where port 80 does not answer, the check for captive portals tells clients nothing", "run detour map check with --probe"},
		{"port80-silent", Warns, "the check for captive portals waits for 3 seconds and tells clients nothing", "open port 80 to the relay, or remove CanPort80"},
		{"port80-wrong", Warns, "clients take it for a captive portal and warn their user of one", "have the relay answer on port 80, or remove CanPort80"},
	}
}
