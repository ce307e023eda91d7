package admit

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

func openBook(t *testing.T, path string, o BookOptions) *Book {
	t.Helper()
	b, err := OpenBook(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBookRules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admission.db")
	b := openBook(t, path, BookOptions{})
	me, other := Request{Key: numbered(1)}, Request{Key: numbered(2)}
	ask, elsewhere := b.Ask("home"), b.Ask("")
	must(t, b.Put(Rule{Key: me.Key, Allow: true, Tenant: "home", Name: "laptop", Note: "Ann's"}))
	must(t, b.Put(Rule{Key: other.Key}))
	if v, _ := ask.(Peeker).Peek(me); v.Answer != Allow || v.Member.Name != "laptop" {
		t.Errorf("allowed: %+v", v)
	}
	if v, _ := elsewhere.(Peeker).Peek(me); v.Answer != Refuse {
		t.Errorf("allowed in another tenant: %+v", v)
	}
	if b.Bars(me) != "" || b.Bars(other) != ReasonDenied || b.Bars(Request{Key: numbered(3)}) != "" {
		t.Error("bars others than the denied one")
	}
	must(t, b.Close())

	b = openBook(t, path, BookOptions{}) // all of it is there again
	if r, ok := b.Rule(me.Key); !ok || r.Note != "Ann's" || r.At.IsZero() || len(b.Rules()) != 2 {
		t.Errorf("after a restart: %+v of %+v", r, b.Rules())
	}
	must(t, b.Put(Rule{Key: other.Key, Allow: true}))
	if b.Bars(other) != "" {
		t.Error("still denied")
	}
	for _, want := range []bool{true, false} {
		if had, err := b.Revoke(me.Key); err != nil || had != want {
			t.Errorf("revoked: %v, %v", had, err)
		}
	}
	if v, _ := b.Ask("home").(Peeker).Peek(me); v.Answer != Refuse {
		t.Error("still allowed")
	}
}

func TestBookBans(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admission.db")
	now := time.Unix(1e9, 0)
	b := openBook(t, path, BookOptions{Now: func() time.Time { return now }})
	at := func(ip string) Request { return Request{Key: numbered(1), Addr: netip.MustParseAddr(ip)} }
	must(t, b.Ban(Ban{Net: netip.MustParsePrefix("192.0.2.77/24")}))
	must(t, b.Ban(Ban{Net: netip.MustParsePrefix("::ffff:198.51.100.7/128"), Until: now.Add(time.Hour)}))
	must(t, b.Ban(Ban{Net: netip.MustParsePrefix("2001:db8:1::/48")}))
	must(t, b.Ban(Ban{Key: numbered(9), Note: "noisy"}))
	check := func(when string, banned, free []Request) {
		t.Helper()
		for _, r := range banned {
			if b.Bars(r) != ReasonBanned {
				t.Errorf("%s: %v is not banned", when, r.Addr)
			}
		}
		for _, r := range free {
			if why := b.Bars(r); why != "" {
				t.Errorf("%s: %v is %s", when, r.Addr, why)
			}
		}
	}
	free := []Request{at("192.0.3.1"), at("198.51.100.8"), at("2001:db8:2::1"), {Key: numbered(1)}}
	check("at first", []Request{at("192.0.2.1"), at("::ffff:192.0.2.1"), at("198.51.100.7"), at("2001:db8:1:9::1%eth0"), {Key: numbered(9)}}, free)
	must(t, b.Close())
	b = openBook(t, path, BookOptions{Now: func() time.Time { return now }})
	if list := b.Bans(); len(list) != 4 {
		t.Errorf("after a restart %+v", list)
	}
	now = now.Add(time.Hour)
	check("an hour later", []Request{at("192.0.2.1")}, append(free, at("198.51.100.7")))
	if had, err := b.Unban(Ban{Net: netip.MustParsePrefix("192.0.2.0/24")}); !had || err != nil {
		t.Errorf("unbanned: %v, %v", had, err)
	}
	if had, err := b.Unban(Ban{Key: numbered(8)}); had || err != nil {
		t.Errorf("unbanned: %v, %v", had, err)
	}
	check("unbanned", []Request{{Key: numbered(9)}}, []Request{at("192.0.2.1")})
}

func TestBansEndByThemselves(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b, err := OpenBook(filepath.Join(dir, "admission.db"), BookOptions{})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var changes, ended int
		done := make(chan struct{})
		go func() { defer close(done); b.Serve(ctx, func() { changes++ }); ended++ }()
		must(t, b.Ban(Ban{Key: numbered(1), Until: time.Now().Add(90 * time.Minute)}))
		time.Sleep(89 * time.Minute)
		synctest.Wait()
		if changes != 0 || len(b.Bans()) != 1 {
			t.Errorf("%d changes, %d bans", changes, len(b.Bans()))
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if changes != 1 || b.countBans() != 0 {
			t.Errorf("%d changes, %d bans", changes, b.countBans())
		}
		cancel()
		<-done
		must(t, b.Close())
	})
}

func TestBookRefuses(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "admission.db"), BookOptions{})
	for name, err := range map[string]error{
		"no key":       b.Put(Rule{Allow: true}),
		"long name":    b.Put(Rule{Key: numbered(1), Name: strings.Repeat("x", 201)}),
		"odd note":     b.Put(Rule{Key: numbered(1), Note: "a\nb"}),
		"everybody":    b.Ban(Ban{Net: netip.MustParsePrefix("0.0.0.0/0")}),
		"everybody 6":  b.Ban(Ban{Net: netip.MustParsePrefix("::/0")}),
		"nobody":       b.Ban(Ban{}),
		"over already": b.Ban(Ban{Key: numbered(1), Until: time.Now().Add(-time.Second)}),
	} {
		if err == nil || !strings.Contains(err.Error(), "; hint: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(b.Rules())+len(b.Bans()) != 0 {
		t.Error("something was kept")
	}
}

func TestBookFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admission.db")
	b := openBook(t, path, BookOptions{})
	must(t, b.Put(Rule{Key: numbered(1), Allow: true}))
	if _, err := OpenBook(path, BookOptions{}); err == nil || !strings.Contains(err.Error(), "another relay") {
		t.Errorf("opened twice: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	must(t, b.Close())
	must(t, os.Chmod(path, 0o644)) // as a backup may put it back
	must(t, openBook(t, path, BookOptions{}).Close())
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	whole, err := os.ReadFile(path)
	must(t, err)
	for name, damage := range map[string][]byte{
		"zeros": make([]byte, 1<<20), "text": []byte(strings.Repeat("not a database ", 1000)), "cut": whole[:5000],
		"pages": append(append([]byte{}, whole[:8192]...), make([]byte, len(whole)-8192)...),
	} {
		file := filepath.Join(dir, name+".db")
		must(t, os.WriteFile(file, damage, 0o600))
		j := &journal{}
		d := openBook(t, file, BookOptions{Logger: slog.New(j)})
		if got := j.take(); len(got) != 1 || !strings.Contains(got[0], "hint: ") {
			t.Errorf("%s: logged %q", name, got)
		}
		must(t, d.Put(Rule{Key: numbered(2)}))
		if aside, _ := filepath.Glob(file + ".damaged-*"); len(aside) != 1 {
			t.Errorf("%s: aside %q", name, aside)
		}
	}
	if _, err := OpenBook(dir, BookOptions{}); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := OpenBook(filepath.Join(dir, "none", "x.db"), BookOptions{}); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("no directory: %v", err)
	}
}

// A file that was cut off, or was overwritten in places, does not end the relay.
func TestBookDamagedAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admission.db")
	b := openBook(t, path, BookOptions{})
	for n := range 150 {
		must(t, b.Put(Rule{Key: numbered(n), Note: strings.Repeat("x", 180)}))
	}
	must(t, b.Close())
	whole, err := os.ReadFile(path)
	must(t, err)
	const page = 4096
	for n := range len(whole) / page {
		cut := filepath.Join(dir, "cut.db")
		must(t, os.WriteFile(cut, whole[:n*page], 0o600))
		openBook(t, cut, BookOptions{}).Close()
		torn := append([]byte(nil), whole...)
		for i := range page {
			torn[n*page+i] = byte(rand.IntN(256))
		}
		must(t, os.WriteFile(cut, torn, 0o600))
		if b, err := OpenBook(cut, BookOptions{}); err == nil {
			b.Close()
		}
		left, _ := filepath.Glob(cut + "*")
		for _, f := range left {
			must(t, os.Remove(f))
		}
	}
}

func TestMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admission.db")
	b := openBook(t, path, BookOptions{})
	m := b.Memory("headscale:hs.example.com")
	if all, err := m.Load(); err != nil || len(all) != 0 {
		t.Errorf("at first %v, %v", all, err)
	}
	at := time.Now().Round(0).UTC()
	must(t, m.Save(map[key.Public]Stored{numbered(1): {Member: Member{Name: "a"}, At: at}, numbered(2): {At: at}, numbered(3): {At: at.AddDate(-2, 0, 0)}}, nil))
	must(t, m.Save(nil, []key.Public{numbered(2), numbered(7)}))
	must(t, b.Close())
	b = openBook(t, path, BookOptions{})
	all, err := b.Memory("headscale:hs.example.com").Load()
	if err != nil || len(all) != 1 || all[numbered(1)].Member.Name != "a" || !all[numbered(1)].At.Equal(at) {
		t.Errorf("loaded %v, %v", all, err)
	}
	if all, _ := b.Memory("another").Load(); len(all) != 0 {
		t.Errorf("another source's %v", all)
	}
}

// What sources said that are asked no more is kept for a season, in case they come
// back, and not for ever.
func TestForgetSources(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "admission.db"), BookOptions{})
	now := time.Now()
	for source, age := range map[string]int{"used, old": 200, "unused, old": 91, "unused, late": 89} {
		must(t, b.Memory(source).Save(map[key.Public]Stored{numbered(1): {At: now.AddDate(0, 0, -age)}, numbered(2): {At: now.AddDate(0, 0, -age-100)}}, nil))
	}
	must(t, b.Memory("unused, empty").Save(nil, nil))
	must(t, b.ForgetSources([]string{"used, old"}))
	for source, want := range map[string]int{"used, old": 2, "unused, old": 0, "unused, late": 2, "unused, empty": 0} {
		if all, err := b.Memory(source).Load(); err != nil || len(all) != want {
			t.Errorf("%s: %d answers, %v", source, len(all), err)
		}
	}
}

func TestBookIsCompacted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admission.db")
	b := openBook(t, path, BookOptions{})
	many := make(map[key.Public]Stored)
	var keys []key.Public
	for n := range 14_000 {
		many[numbered(n)] = Stored{Member: Member{Name: strings.Repeat("n", 300)}, At: time.Now()}
		keys = append(keys, numbered(n))
	}
	must(t, b.Memory("s").Save(many, nil))
	must(t, b.Memory("s").Save(nil, keys[1:]))
	must(t, b.Close())
	before, _ := os.Stat(path)
	b = openBook(t, path, BookOptions{})
	after, _ := os.Stat(path)
	if after.Size() > before.Size()/4 {
		t.Errorf("%d bytes, before %d", after.Size(), before.Size())
	}
	if all, err := b.Memory("s").Load(); err != nil || len(all) != 1 {
		t.Errorf("left %d, %v", len(all), err)
	}
}

func TestBarsIsQuick(t *testing.T) {
	b := openBook(t, filepath.Join(t.TempDir(), "admission.db"), BookOptions{})
	for n := range 10_000 {
		b.put(Ban{Net: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)})
	}
	r := Request{Key: numbered(1), Addr: somewhere}
	if n := testing.AllocsPerRun(100, func() { b.Bars(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// keepBooks is the child of TestKilled: it changes a book without end, and says on
// standard output what is acknowledged.
func keepBooks() {
	path := os.Getenv("DETOUR_TEST_BOOK")
	if path == "" {
		return
	}
	b, err := OpenBook(path, BookOptions{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for n := 0; ; n++ {
		k := n % 50
		fmt.Printf("try %d %d\n", k, n)
		if n%7 == 6 {
			_, err = b.Revoke(numbered(k))
			if err == nil {
				fmt.Printf("gone %d\n", k)
			}
		} else if err = b.Put(Rule{Key: numbered(k), Allow: true, Name: strconv.Itoa(n)}); err == nil {
			fmt.Printf("done %d %d\n", k, n)
		}
		if err == nil && n%11 == 0 {
			err = b.Memory("s").Save(map[key.Public]Stored{numbered(k): {At: time.Now()}}, nil)
		}
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
}

// A relay that is killed at any moment has lost nothing that it had acknowledged.
// DETOUR_KILLS says how often; 20 in CI.
func TestKilled(t *testing.T) {
	kills := 20
	if n, err := strconv.Atoi(os.Getenv("DETOUR_KILLS")); err == nil {
		kills = n
	}
	path := filepath.Join(t.TempDir(), "admission.db")
	rules := map[key.Public]string{} // as acknowledged
	var changes int
	for round := range kills {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "DETOUR_TEST_BOOK="+path)
		out, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		upTo := 1 + rand.IntN(120)
		lines := bufio.NewScanner(out)
		var tried key.Public
		for n := 0; lines.Scan(); n++ {
			var word string
			var k, v int
			fmt.Sscan(lines.Text(), &word, &k, &v)
			switch word {
			case "try":
				tried = numbered(k)
			case "done":
				rules[numbered(k)] = strconv.Itoa(v)
				changes++
			case "gone":
				delete(rules, numbered(k))
				changes++
			default:
				t.Fatalf("round %d: the child says %q", round, lines.Text())
			}
			if n == upTo {
				must(t, child.Process.Kill()) // what it had written to the pipe is still read
			}
		}
		_ = child.Wait() // killed
		b, err := OpenBook(path, BookOptions{})
		must(t, err)
		found := map[key.Public]string{}
		for _, r := range b.Rules() {
			found[r.Key] = r.Name
		}
		must(t, b.Close())
		// The change under way may be there or not; nothing else may differ.
		delete(found, tried)
		want := maps.Clone(rules)
		delete(want, tried)
		if !maps.Equal(found, want) {
			t.Fatalf("round %d: %d rules, want %d:\n%v\n%v", round, len(found), len(want), found, want)
		}
		b, err = OpenBook(path, BookOptions{})
		must(t, err)
		if r, ok := b.Rule(tried); ok {
			rules[tried] = r.Name
		} else {
			delete(rules, tried)
		}
		must(t, b.Close())
	}
	t.Logf("killed %d times amid %d acknowledged changes; none is lost", kills, changes)
}
