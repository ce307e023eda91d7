package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// assign parses text into dst, which points to a field of Config. It leaves dst
// as it was when text is wrong.
func assign(dst any, text string) []fault {
	switch p := dst.(type) {
	case *string:
		*p = text
	case *[]string:
		*p = splitList(text)
	case *bool:
		return assignBool(p, text)
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return bad("", "want a whole number, got %s", quote(text))
		}
		*p = n
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return bad(durationHint(text), "want a duration, got %s", quote(text))
		}
		*p = d
	case *netip.Addr:
		return assignIP(p, text)
	default:
		panic(fmt.Sprintf("config: a field of type %T has no parser", dst))
	}
	return nil
}

func assignBool(p *bool, text string) []fault {
	switch text {
	case "true", "on":
		*p = true
	case "false", "off":
		*p = false
	default:
		return bad("", "want true or false, got %s", quote(text))
	}
	return nil
}

func assignIP(p *netip.Addr, text string) []fault {
	if text == "" {
		*p = netip.Addr{}
		return nil
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return bad("write the address alone, without port, prefix length or brackets", "want an IP address, got %s", quote(text))
	}
	*p = ip
	return nil
}

func durationHint(text string) string {
	if _, err := strconv.Atoi(text); err == nil {
		return "write the unit, as in " + text + "s"
	}
	return "write a number and ms, s, m or h, as in 2s or 1h30m"
}

// splitList cuts a list that had to be one text, as in the environment.
func splitList(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
}

// assignList sets a list from entries, leaving out empty ones: a shell gives
// those for unset variables, and an empty list admits nobody.
func assignList(dst any, entries []string) {
	list := []string{}
	for _, e := range entries {
		if e != "" {
			list = append(list, e)
		}
	}
	*dst.(*[]string) = list
}

// format writes the field that src points to as assign reads it.
func format(src any) string {
	switch p := src.(type) {
	case *string:
		return *p
	case *[]string:
		return strings.Join(*p, ",")
	case *bool:
		return strconv.FormatBool(*p)
	case *int:
		return strconv.Itoa(*p)
	case *time.Duration:
		return formatDuration(*p)
	case *netip.Addr:
		if !p.IsValid() {
			return ""
		}
		return p.String()
	default:
		panic(fmt.Sprintf("config: a field of type %T has no printer", src))
	}
}

// formatDuration drops the zero units that Duration.String adds: 10m, not 10m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
