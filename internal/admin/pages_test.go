package admin

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// crowded is a Control of a relay with many peers and rules.
type crowded struct {
	desk
	peers int
	name  string // of each
}

func nth(n int) key.Public { return key.Public{1, byte(n >> 16), byte(n >> 8), byte(n)} }

func (c *crowded) Status() Status {
	s := Status{Peers: []Peer{}}
	for n := range c.peers {
		s.Peers = append(s.Peers, Peer{Key: nth(n), Name: c.name, App: c.name[:min(len(c.name), 64)], Since: time.Unix(int64(n), 0).UTC(), Waiting: n%10 == 0})
	}
	return s
}

func (c *crowded) Rules() (list []Rule) {
	for n := range c.peers {
		list = append(list, Rule{Key: nth(n), Name: c.name[:min(len(c.name), 200)], Note: c.name[:min(len(c.name), 200)]})
	}
	return list
}

func askCrowd(t *testing.T, c *crowded) (*Client, Status) {
	t.Helper()
	s := onSocket(t, Options{Control: c})
	start(t, s)
	client, err := NewClient("unix:" + s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var status Status
	if err := client.Call(t.Context(), "GET", "/v1/status", nil, &status); err != nil {
		t.Fatal(err)
	}
	return client, status
}

// However long the names are, a page is not more than the client reads.
func TestPagesFit(t *testing.T) {
	c := &crowded{peers: PageSize + 1, name: strings.Repeat("<", 515)} // "name (user)"; six bytes each in JSON
	client, status := askCrowd(t, c)
	if len(status.Peers) != PageSize || status.More != 1 {
		t.Errorf("%d peers and %d more", len(status.Peers), status.More)
	}
	if rules, err := client.AllRules(t.Context()); err != nil || len(rules) != PageSize+1 {
		t.Errorf("%d rules, %v", len(rules), err)
	}
}

func TestPages(t *testing.T) {
	for _, peers := range []int{0, 1, PageSize, 3*PageSize + 5} {
		client, status := askCrowd(t, &crowded{peers: peers, name: "n"})
		if n := min(peers, PageSize); len(status.Peers) != n || status.More != peers-n || status.Waiting != (peers+9)/10 || status.Connected+status.Waiting != peers {
			t.Errorf("of %d: %d peers, %d more, %d connected, %d waiting", peers, len(status.Peers), status.More, status.Connected, status.Waiting)
		}
		if peers > 0 && status.Peers[len(status.Peers)-1].Key != nth(peers-1) {
			t.Errorf("of %d the newest is not the last", peers)
		}
		if err := client.AllPeers(t.Context(), &status); err != nil || len(status.Peers) != peers || status.More != 0 {
			t.Errorf("of %d all: %d, %d more, %v", peers, len(status.Peers), status.More, err)
		}
		for n, p := range status.Peers {
			if p.Key != nth(n) {
				t.Fatalf("of %d: peer %d is %v", peers, n, p.Key)
			}
		}
		rules, err := client.AllRules(t.Context())
		if err != nil || len(rules) != peers {
			t.Errorf("of %d: %d rules, %v", peers, len(rules), err)
		}
		for n, r := range rules {
			if r.Key != nth(n) {
				t.Fatalf("of %d: rule %d is %v", peers, n, r.Key)
			}
		}
	}
}

func TestPageThatIsNone(t *testing.T) {
	s := onSocket(t, Options{Control: &crowded{name: "n"}})
	start(t, s)
	for _, path := range []string{"/v1/status", "/v1/admit/rules"} {
		for skip, want := range map[string]int{"x": 400, "-1": 400, "5": 200} {
			if resp, body := ask(t, s, get(fmt.Sprintf("%s?skip=%s", path, skip))); resp.StatusCode != want || want == 400 && !strings.Contains(body, "hint") {
				t.Errorf("%s, skip %s: %d %s", path, skip, resp.StatusCode, body)
			}
		}
	}
}
