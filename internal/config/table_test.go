package config

import (
	"bytes"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The table must name each field of Config once, with the kind of its type.
func TestTableCoversConfig(t *testing.T) {
	var c Config
	fields := map[any]string{}
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		fields[v.Field(i).Addr().Interface()] = v.Type().Field(i).Name
	}
	delete(fields, &c.ACMEEABKey) // a secret: DETOUR_ACME_EAB_KEY alone sets it
	names := map[string]bool{}
	for _, s := range table() {
		p := s.field(&c)
		if _, ok := fields[p]; !ok {
			t.Errorf("%s: its field is not in Config, or another setting has it", s.Name)
		}
		delete(fields, p)
		if names[s.Name] || !regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*$`).MatchString(s.Name) {
			t.Errorf("%s: a bad name, or a second setting of that name", s.Name)
		}
		names[s.Name] = true
		if !kindFits(s.Kind, p) {
			t.Errorf("%s: kind %s does not fit a %T", s.Name, s.Kind, p)
		}
		if s.Usage == "" || strings.HasSuffix(s.Usage, ".") || s.section == "" || s.Usage != strings.TrimSpace(s.Usage) {
			t.Errorf("%s: usage %q, section %q", s.Name, s.Usage, s.section)
		}
	}
	if len(fields) > 0 {
		t.Errorf("fields of Config without a setting: %v", fields)
	}
}

func kindFits(k Kind, p any) bool {
	switch p.(type) {
	case *string:
		return k == KindText || k == KindAddress || k == KindPath
	case *bool:
		return k == KindBool
	case *int:
		return k == KindInt
	case *time.Duration:
		return k == KindDuration
	case *netip.Addr:
		return k == KindIP
	case *[]string:
		return k == KindList
	}
	return false
}

func TestSettings(t *testing.T) {
	all := Settings()
	if len(all) != len(table()) {
		t.Fatalf("%d settings, %d rows", len(all), len(table()))
	}
	s := Setting{Name: "tcp_user_timeout"}
	if s.FlagName() != "tcp-user-timeout" || s.EnvName() != "DETOUR_TCP_USER_TIMEOUT" {
		t.Errorf("flag %s, variable %s", s.FlagName(), s.EnvName())
	}
}

func TestExampleGolden(t *testing.T) {
	const path = "testdata/example.yaml"
	if *update {
		if err := os.WriteFile(path, Example(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(Example(), want) {
		t.Errorf("the example differs from %s; go test -update writes it anew\n%s", path, Example())
	}
}

// uncomment does what the example's head tells people to do.
func uncomment(example []byte) []byte {
	return regexp.MustCompile(`(?m)^#([^ \n])`).ReplaceAll(example, []byte("$1"))
}

func TestExampleUncommentedIsTheDefault(t *testing.T) {
	text := uncomment(Example())
	if got, want := len(regexp.MustCompile(`(?m)^[a-z]`).FindAll(text, -1)), len(table()); got != want {
		t.Fatalf("%d settings in the example, want %d", got, want)
	}
	l := newLoader(rootHost)
	if !l.yaml("example.yaml", text) {
		t.Fatal(errorOf(l.problems))
	}
	c, err := l.finish()
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults(rootHost)
	for _, s := range table() {
		if got, want := format(s.field(&c)), format(s.field(&want)); got != want {
			t.Errorf("%s: %q in the example, %q by default", s.Name, got, want)
		}
		if _, ok := l.origin[s.Name]; !ok {
			t.Errorf("%s is not in the example", s.Name)
		}
	}
}

func TestFormatReadsBack(t *testing.T) {
	c := Defaults(rootHost)
	c.PublicIPv6 = netip.MustParseAddr("2001:db8::1")
	c.AdmitKey = []string{"a", "b"}
	c.WriteTimeout = time.Hour + 30*time.Minute
	for _, s := range table() {
		var back Config
		if faults := assign(s.field(&back), format(s.field(&c))); len(faults) > 0 {
			t.Errorf("%s: %v", s.Name, faults)
		}
		if got, want := format(s.field(&back)), format(s.field(&c)); got != want {
			t.Errorf("%s: %q, want %q", s.Name, got, want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 2 * time.Second: "2s", 10 * time.Minute: "10m", time.Hour: "1h", 24 * time.Hour: "24h",
		90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s", 20 * time.Second: "20s", 100 * time.Minute: "1h40m",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"listen", "stun_listen", "tls", "admit", "admit_key", "key"}
	tests := []struct{ in, want string }{
		{"lisen", "listen"},
		{"listne", "listen"},
		{"stunlisten", "stun_listen"},
		{"STUN_LISTEN", "stun_listen"},
		{"tsl", "tls"},
		{"admitkey", "admit_key"},
		{"kye", "key"},
		{"bananas", ""},
		{"x", ""},
		{"", ""},
		{strings.Repeat("listen", 20), ""},
	}
	for _, tt := range tests {
		if got, _ := nearest(tt.in, known); got != tt.want {
			t.Errorf("nearest(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestSlips(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"kitten", "sitting", 3}, {"ca", "abc", 3}}
	for _, tt := range tests {
		if got := slips(tt.a, tt.b); got != tt.want {
			t.Errorf("slips(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
