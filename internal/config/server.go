package config

import "fmt"

// Of returns the settings of a command about a node. They are those that its server was started
// with, except where the command itself was given others. A variable with the same value as the
// server's counts as the server's: a flag may have overruled it there. The second result says what
// differs, for people.
func (c Config) Of(server Config) (merged Config, differs []string) {
	rows := Settings(&merged)
	merged = server
	merged.Args = c.Args
	for _, s := range rows {
		text, flag := c.Flags[s.Flag]
		if !flag {
			if text = c.Variables[s.Flag]; text == "" || text == server.Variables[s.Flag] {
				continue
			}
		}
		was := s.Value.String()
		if err := s.Value.Set(text); err != nil { // it was taken before
			continue
		}
		if is := s.Value.String(); is != was {
			differs = append(differs, fmt.Sprintf("--%s is %s here, and %s for the server", s.Flag, is, was))
		}
	}
	return merged, differs
}
