package statedir

import "time"

// Refused is the refusal that the last start ended with. A start that gets further removes
// it.
type Refused struct {
	Why   string    `json:"why"`   // the kind of it
	Again int       `json:"again"` // starts that ended so since the first
	At    time.Time `json:"at"`
}

func (v Dir) Refused() (*Refused, error) { return readJSON[Refused](v.file("refused")) }

func (v Dir) WriteRefused(r Refused) error { return writeJSON(v.file("refused"), r) }
