package healthcheck

// Steady turns what single checks saw into what to report: one miss keeps the
// state before it, the second makes it Critical. What the server said itself,
// that it stops or drains, counts at once. What is unknown keeps the state as it
// is, and stays Unknown. The zero value has seen nothing, so it starts Critical.
type Steady struct {
	reported Result
	missed   bool // the last check was a miss
}

// Next takes the next result and returns the one to report.
func (s *Steady) Next(r Result) Result {
	if r.Unknown {
		kept := s.reported
		kept.Unknown, kept.Missed, kept.Reason = true, true, line(kept.State.String()+" when last looked at; not looked at anew: "+r.Reason)
		return kept
	}
	first := !s.missed
	s.missed = r.State == Critical
	if s.missed && first && s.reported.State != Critical && !r.Stopping && !r.Draining {
		kept := s.reported
		kept.Missed = true
		kept.Reason = line(kept.State.String() + " until a second check fails: " + r.Reason)
		return kept
	}
	s.reported = r
	return r
}
