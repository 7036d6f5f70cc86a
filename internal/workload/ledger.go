package workload

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A ledger is what `produce` or `consume` wrote down: one line an event, written
// at once and never changed, so that a killed client leaves all it knew.
//
//	2026-11-22T01:02:03.000001Z produce 5f3a9c01 my-queue
//	2026-11-22T01:02:03.100001Z confirmed 5f3a9c01 17
//	2026-11-22T01:02:09.000001Z end 5f3a9c01 600
//
// The third word is the producer's run, which its messages carry beside their
// number; the last line says how many numbers it gave out. A consumer's ledger
// has consume, received and end; a message's run is that of its producer.
type ledger struct {
	file  *os.File // nil: nothing is written down
	began time.Time
	lines int
}

const ledgerTime = "2006-01-02T15:04:05.000000Z"

// Events of a ledger.
const (
	evProduce   = "produce"
	evConfirmed = "confirmed"
	evConsume   = "consume"
	evReceived  = "received"
	evEnd       = "end"
)

// createLedger makes the file, which must not exist: what a run wrote down is
// evidence. Without a path nothing is written down.
func createLedger(path string) (*ledger, error) {
	l := &ledger{began: time.Now()}
	if path == "" {
		return l, nil
	}
	var err error
	l.file, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o644) // #nosec G302 -- numbers, for people to read
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("--ledger %s exists, and a ledger is never overwritten: name another file, or move it away", path)
	}
	if err != nil {
		return nil, fmt.Errorf("--ledger: %w", err)
	}
	return l, nil
}

// note writes one event down and returns when it was. Times are the wall clock's
// at the start of the program and the monotonic clock's from there, so that a
// clock that is set meanwhile makes no gap.
func (l *ledger) note(event, run string, what any) (time.Time, error) {
	now := l.began.Add(time.Since(l.began))
	if l.file == nil {
		return now, nil
	}
	if _, err := fmt.Fprintf(l.file, "%s %s %s %v\n", now.UTC().Format(ledgerTime), event, run, what); err != nil {
		return now, fmt.Errorf("--ledger: %w", err)
	}
	l.lines++
	return now, nil
}

// close closes the file. One in which nothing was written goes, so that the name
// can be used again.
func (l *ledger) close() error {
	if l.file == nil {
		return nil
	}
	if l.lines == 0 {
		_ = os.Remove(l.file.Name())
	}
	return l.file.Close()
}

// An outage is a time without a confirm.
type outage struct{ from, to time.Time }

func (o outage) length() time.Duration { return o.to.Sub(o.from) }

// gaps finds the longest time from one confirm to the next.
type gaps struct {
	last    time.Time
	longest outage
}

// start begins the first gap, confirm ends one and begins the next.
func (g *gaps) start(t time.Time) { g.last = t }

func (g *gaps) confirm(t time.Time) {
	if o := (outage{g.last, t}); o.length() > g.longest.length() {
		g.longest = o
	}
	g.last = t
}

// A message is known by its producer's run and its number.
type message struct {
	run    string
	number uint64
}

// id is the message-id that carries it through the broker.
func (m message) id() string { return m.run + "/" + strconv.FormatUint(m.number, 10) }

// parseMessage reads a message-id; false if it is none of ours.
func parseMessage(id string) (message, bool) {
	run, number, ok := strings.Cut(id, "/")
	n, err := strconv.ParseUint(number, 10, 64)
	return message{run, n}, ok && err == nil && run != "" && !strings.ContainsAny(run, " \t\r\n")
}

// A tally is what ledgers say together.
type tally struct {
	produced  map[string]*gaps // by run
	given     map[string]uint64
	open      []string // runs whose ledger has no end
	consumers int
	confirmed map[message]bool
	received  map[message]int
}

// The figures of a tally. Received counts messages, not deliveries: duplicated
// are the deliveries of a message after its first.
type figures struct {
	Confirmed, Received, Duplicated int
	Lost                            []message // confirmed and not received
	Unconfirmed                     int       // received and not confirmed
	Gap                             outage    // longest time without a confirm
}

func newTally() *tally {
	return &tally{produced: map[string]*gaps{}, given: map[string]uint64{}, confirmed: map[message]bool{}, received: map[message]int{}}
}

// read adds a ledger. Half a last line, which a killed client may leave, is passed
// over.
func (t *tally) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	run, ended := "", false // run: of a producer's ledger
	r := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := r.ReadString('\n')
		if err == io.EOF && n > 1 {
			break
		}
		if err == io.EOF {
			return fmt.Errorf("%s holds nothing: its client never reached a broker", path)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		bad := func() error {
			return fmt.Errorf("%s:%d: not a line of a ledger that produce or consume wrote: %.80q", path, n, strings.TrimSpace(line))
		}
		f := strings.Fields(line)
		if len(f) != 4 {
			return bad()
		}
		at, err := time.Parse(ledgerTime, f[0])
		if err != nil {
			return bad()
		}
		if event := f[1]; event == evProduce || event == evConsume {
			if n != 1 {
				return bad()
			}
			if event == evConsume {
				t.consumers++
				continue
			}
			run = f[2]
			if t.produced[run] != nil {
				return fmt.Errorf("%s: the run %s was read already: give each ledger once", path, run)
			}
			t.produced[run] = &gaps{}
			t.produced[run].start(at)
			continue
		}
		number, err := strconv.ParseUint(f[3], 10, 64)
		if err != nil || n == 1 {
			return bad()
		}
		m := message{f[2], number}
		switch {
		case f[1] == evConfirmed && m.run == run:
			t.confirmed[m] = true
			t.produced[run].confirm(at)
		case f[1] == evReceived && run == "":
			t.received[m]++
		case f[1] == evEnd:
			if ended = true; run != "" {
				t.given[run] = number
				if g := t.produced[run]; t.missing(run) { // it went on without a confirm until it ended
					g.confirm(at)
				}
			}
		default:
			return bad()
		}
	}
	if run != "" && !ended {
		t.open = append(t.open, run)
	}
	return nil
}

// missing reports whether a run gave out numbers that were never confirmed.
func (t *tally) missing(run string) bool {
	for n := uint64(1); n <= t.given[run]; n++ {
		if !t.confirmed[message{run, n}] {
			return true
		}
	}
	return false
}

// figures counts. Messages of runs whose producer's ledger was not read do not
// count.
func (t *tally) figures() figures {
	f := figures{Confirmed: len(t.confirmed)}
	for m := range t.confirmed {
		if t.received[m] == 0 {
			f.Lost = append(f.Lost, m)
		}
	}
	slices.SortFunc(f.Lost, func(a, b message) int {
		return cmp.Or(strings.Compare(a.run, b.run), cmp.Compare(a.number, b.number))
	})
	for m, times := range t.received {
		if t.produced[m.run] == nil {
			continue
		}
		f.Received++
		f.Duplicated += times - 1
		if !t.confirmed[m] {
			f.Unconfirmed++
		}
	}
	for _, g := range t.produced {
		if g.longest.length() > f.Gap.length() {
			f.Gap = g.longest
		}
	}
	return f
}
