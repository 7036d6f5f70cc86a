package statedir

import "time"

// Refused is the refusal that the last start ended with. A start that gets further removes
// it.
type Refused struct {
	Why   string    `json:"why"`   // the kind of it
	Image string    `json:"image"` // what the image runs: another one may be let through
	Again int       `json:"again"` // starts that ended so since the first
	At    time.Time `json:"at"`
}

// Is reports whether the refusal is of that kind, and of the same image. There may be none.
func (r *Refused) Is(kind string, image Versions) bool {
	return r != nil && r.Why == kind && r.Image == image.String()
}

func (v Dir) Refused() (*Refused, error) { return readJSON[Refused](v.file("refused")) }

func (v Dir) WriteRefused(r Refused) error { return writeJSON(v.file("refused"), r) }
