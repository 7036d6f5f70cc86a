package rabbitmq

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A resident is a bare Erlang VM that stays while a server boots. The boot has the companion ask a
// dozen questions, and each would have to wait for a VM of its own: 0.3 s, or more while all
// nodes of a cluster boot on the same CPUs. It gives positive answers only: what it cannot do is
// done as if it were not there.
//
// It may stand at the gate: see resident.erl.
type resident struct {
	start func(gate string) *exec.Cmd // nil: where RabbitMQ's scripts are not as we know them

	mu     sync.Mutex
	begun  bool
	input  *os.File // nil: it does not run
	number uint64   // of the last question
	asked  map[uint64]chan<- answer
}

// An answer is what a resident says to a question.
type answer struct {
	how  string // value, failed or none
	text string
}

// mostAnswer bounds an answer, in bytes: the longest is the list of a cluster's queues.
const mostAnswer = 64 << 20

// A Resident is a VM that may be started to stay while a server boots: see [CLI.Stay].
type Resident interface {
	Stay(gate string)
	Unhold()
	Retire()
}

// Stay has questions asked by a VM that stays, at the gate if that has a name. It returns at once,
// and starts one such VM only.
func (b CLI) Stay(gate string) {
	if b.Resident != nil {
		b.Resident.Stay(gate)
	}
}

// Unhold has RabbitMQ that looks for the gate look again, at once. The next time it goes by what
// it was told meanwhile.
func (b CLI) Unhold() {
	if b.Resident != nil {
		b.Resident.Unhold()
	}
}

// Retire ends the VM that stays: there is no more than a question now and then. None starts again.
func (b CLI) Retire() {
	if b.Resident != nil {
		b.Resident.Retire()
	}
}

func (r *resident) Stay(gate string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun {
		return
	}
	r.begun = true
	if cmd := r.start(gate); cmd != nil {
		r.run(cmd)
	}
}

func (r *resident) Unhold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.send("open")
}

func (r *resident) Retire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun = true
	r.shut()
}

// shut has it halt. The caller holds mu.
func (r *resident) shut() {
	if r.input != nil {
		r.input.Close()
		r.input = nil
	}
}

// run starts it. The caller holds mu.
func (r *resident) run(cmd *exec.Cmd) {
	questions, input, err := os.Pipe() // of the kind that can be written to within a time
	if err != nil {
		return
	}
	defer questions.Close()
	cmd.Stdin = questions
	output, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		input.Close()
		return
	}
	r.input, r.asked = input, map[uint64]chan<- answer{}
	go func() {
		r.read(output)
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
}

// read hands answers to those who asked, until there are no more.
func (r *resident) read(output io.Reader) {
	in := bufio.NewReader(output)
	for {
		number, a, err := readAnswer(in)
		r.mu.Lock()
		if err != nil {
			for _, to := range r.asked {
				to <- answer{how: "none"}
			}
			r.asked = nil
			r.shut()
			r.mu.Unlock()
			return
		}
		if to := r.asked[number]; to != nil { // it has room for one
			delete(r.asked, number)
			to <- a
		}
		r.mu.Unlock()
	}
}

// readAnswer reads one as resident.erl gives it.
func readAnswer(in io.Reader) (number uint64, a answer, err error) {
	var size uint32
	if err := binary.Read(in, binary.BigEndian, &size); err != nil {
		return 0, answer{}, err
	}
	if size > mostAnswer {
		return 0, answer{}, fmt.Errorf("an answer of %d bytes", size)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(in, text); err != nil {
		return 0, answer{}, err
	}
	said := bytes.SplitN(text, []byte("\n"), 3)
	if len(said) < 3 {
		return 0, answer{}, errors.New("no answer")
	}
	number, err = strconv.ParseUint(string(said[0]), 10, 64)
	return number, answer{string(said[1]), string(said[2])}, err
}

// send has it take text. One that does not is of no more use. The caller holds mu.
func (r *resident) send(text string) bool {
	if r.input == nil {
		return false
	}
	_ = r.input.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := r.input.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)); err != nil { // #nosec G115 -- an expression is of a few kB
		r.shut()
	}
	return r.input != nil
}

// ask has node evaluate an expression. It does not know where it cannot tell what node says: then
// a VM of its own is to be asked, which says why.
func (r *resident) ask(ctx context.Context, node, expr string) (out string, knows bool, err error) {
	answered := make(chan answer, 1)
	r.mu.Lock()
	r.number++
	number, left := r.number, CLITimeout
	if until, ok := ctx.Deadline(); ok {
		left = time.Until(until)
	}
	sent := r.send(fmt.Sprintf("%d\n%d\n%s\n%s", number, max(left.Milliseconds(), 1), node, expr))
	if sent {
		r.asked[number] = answered
	}
	r.mu.Unlock()
	if !sent {
		return "", false, nil
	}
	select {
	case a := <-answered:
		switch a.how {
		case "value":
			return a.text, true, nil
		case "failed":
			return "", true, fmt.Errorf("%s: %.300s", node, a.text)
		}
		return "", false, nil
	case <-ctx.Done():
		r.mu.Lock()
		delete(r.asked, number)
		r.mu.Unlock()
		return "", true, fmt.Errorf("%s: no answer: %w", node, context.Cause(ctx))
	}
}
