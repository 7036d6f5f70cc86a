package admin

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// A screen gathers what is to be shown at once, so that nobody sees it half drawn.
type screen struct {
	bytes.Buffer
	out      io.Writer
	terminal bool
}

func newScreen(out io.Writer, terminal bool) *screen { return &screen{out: out, terminal: terminal} }

// flush shows it: over what was there on a terminal, below it elsewhere.
func (s *screen) flush() error {
	head := fmt.Sprintf("%s, every %s; Ctrl-C ends it\n\n", time.Now().Format(time.RFC3339), watchEvery)
	if s.terminal {
		head = "\x1b[H\x1b[2J" + head
	} else {
		head = "\n" + head
	}
	_, err := s.out.Write(append([]byte(head), s.Bytes()...))
	return err
}
