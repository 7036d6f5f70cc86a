package healthcheck

import "time"

// Pauses are those between logins that are refused: RabbitMQ writes each refusal to its log.
// The zero value is over.
type Pauses struct {
	last  time.Duration
	until time.Time
}

const (
	firstPause   = 5 * time.Second
	longestPause = time.Minute
)

// Refused begins a pause, twice as long as the last one, up to a minute.
func (p *Pauses) Refused(now time.Time) {
	p.last = min(max(2*p.last, firstPause), longestPause)
	p.until = now.Add(p.last)
}

// Over reports whether it is time to try again.
func (p *Pauses) Over(now time.Time) bool { return !now.Before(p.until) }
