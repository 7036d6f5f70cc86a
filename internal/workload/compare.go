package workload

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Compare is `rmq-entrypoint compare LEDGER…`: what became of the messages
// that producers' ledgers call confirmed, as consumers' ledgers have it. A lost
// message is an error, and so is a gap in the confirms longer than --max-gap.
func Compare(o Options, paths []string, out io.Writer) error {
	t := newTally()
	for _, path := range paths {
		if err := t.read(path); err != nil {
			return err
		}
	}
	if len(t.produced) == 0 || t.consumers == 0 {
		return fmt.Errorf("compare needs the ledger of a producer and of every consumer: got %d and %d of them", len(t.produced), t.consumers)
	}
	f := t.figures()
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "confirmed\treceived\tlost\tduplicated\tlongest gap (ms)")
	fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\n", f.Confirmed, f.Received, len(f.Lost), f.Duplicated, f.Gap.length().Round(time.Millisecond).Milliseconds())
	w.Flush()
	if f.Gap.length() > 0 {
		fmt.Fprintf(out, "the longest gap in confirms was from %s to %s\n", f.Gap.from.Format(ledgerTime), f.Gap.to.Format(ledgerTime))
	}
	if f.Unconfirmed > 0 {
		fmt.Fprintf(out, "received without ever being confirmed: %d\n", f.Unconfirmed)
	}
	for _, run := range t.open {
		fmt.Fprintf(out, "the ledger of run %s has no end: its producer was killed, or runs\n", run)
	}
	if f.Confirmed == 0 {
		return errors.New("nothing was confirmed, so nothing was shown")
	}
	if len(f.Lost) > 0 {
		return fmt.Errorf("%d confirmed messages were not received: %s", len(f.Lost), some(f.Lost))
	}
	if gap := f.Gap.length(); o.MaxGap > 0 && gap > o.MaxGap {
		return fmt.Errorf("%s went by without a confirm, --max-gap allows %s", gap.Round(time.Millisecond), o.MaxGap)
	}
	return nil
}

// some names the first of many.
func some(ms []message) string {
	const most = 20
	var names []string
	for _, m := range ms[:min(len(ms), most)] {
		names = append(names, m.id())
	}
	if len(ms) > most {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}
