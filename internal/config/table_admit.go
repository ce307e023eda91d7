package config

// The values of Refusal.
const (
	RefusalLobby = "lobby" // refused clients wait, connected, and are told why
	RefusalClose = "close" // their connection is closed without a word, as derper does
)

// refusalSettings say what becomes of those who are not admitted.
func refusalSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "refusal", Kind: KindText, Values: []string{RefusalLobby, RefusalClose},
				Usage: "what refused clients get: lobby or close",
				Note:  "lobby lets them log in, tells them why in tailscale status, lets them send and receive nothing, and admits them where they are once they may; close hangs up without a word, as derper does.",
			},
			value: RefusalLobby,
			field: func(c *Config) any { return &c.Refusal },
		},
	}
}
