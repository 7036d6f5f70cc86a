package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// healthcheckMain answers Docker's question "is this container worth killing?",
// or with ready "is this node fit to serve?", in one line and an exit status. It
// starts a companion that was lost again.
func healthcheckMain(ctx context.Context, cfg config, ready bool, out io.Writer) error {
	say := func(ok bool, format string, args ...any) error {
		fmt.Fprintf(out, format+"\n", args...)
		if !ok {
			return errSaid
		}
		return nil
	}
	rt, err := readRuntime(cfg.StateDir)
	if err != nil {
		return err
	}
	if rt == nil {
		return say(!ready, "starting: nothing decided yet")
	}
	if !rt.alive() {
		return say(false, "the server (pid %d) is gone", rt.PID)
	}
	if rt.Waiting != "" && rt.Waiting != replaced {
		return say(!ready, "waiting for %s", rt.Waiting)
	}
	seat, err := trySeat(cfg.StateDir, companionSeat)
	if err == nil {
		defer seat.Close()
		if rt, err = readRuntime(cfg.StateDir); err == nil { // what the lost one wrote last
			err = replace(ctx, rt, seat)
		}
		if err != nil {
			return say(false, "the companion was gone and cannot be started again: %v", err)
		}
	} else if !errors.Is(err, errSeatTaken) {
		return err
	}
	r, err := askCompanion(ctx, rt.Config.HTTP)
	switch {
	case err != nil:
		return say(!ready, "the companion does not answer: %v", err)
	case ready:
		return say(r.ready(), "%s: %s", r.Status, r.Reason)
	}
	return say(true, "alive; %s: %s", r.Status, r.Reason)
}

// replace starts the companion again, as the server's user and with the server's
// own output.
func replace(ctx context.Context, rt *runtimeFile, seat *os.File) error {
	if err := dropTo(rabbitmqUser); err != nil {
		return err
	}
	rt.Waiting = replaced
	if err := rt.write(); err != nil {
		return err
	}
	out, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/2", rt.PID), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		if out, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
			return err
		}
	}
	defer out.Close()
	fmt.Fprintln(out, "rmq-entrypoint: the companion was gone, a health check starts it again")
	_, err = spawn(ctx, *rt, nil, seat, out)
	return err
}

// askCompanion reads /status of the companion of this node.
func askCompanion(ctx context.Context, addr string) (report, error) {
	var r report
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port)+"/status", nil)
	if err != nil {
		return r, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	return r, json.NewDecoder(resp.Body).Decode(&r)
}
