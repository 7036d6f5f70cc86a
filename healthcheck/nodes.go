package healthcheck

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// ErrUnknown is wrapped by every error of [Nodes]: nothing was learned. It never
// means that there are no nodes or no partitions.
var ErrUnknown = errors.New("nodes unknown")

// A Node is a member of the cluster as the asked node sees it.
type Node struct {
	Name    string
	Running bool
	// Known says that the statistics below have been collected. They are not for
	// a node that is down, in the first seconds, or with metrics turned off.
	Known      bool
	Partitions []string // nodes that this one lists as cut off from it
}

// Nodes asks the management port at base, as http://127.0.0.1:15672, for the
// members of the cluster. The user needs the tag monitoring or administrator.
// On https the certificate is judged by the rule at [Options].URLs. It returns
// within 5 s, or when ctx is done.
func Nodes(ctx context.Context, base, user, password string) (_ []Node, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%w: management URL does not parse", ErrUnknown)
	}
	u.User = nil
	u = u.JoinPath("api", "nodes")
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: GET %s: %w", ErrUnknown, u, err)
		}
	}()
	q := *u
	q.RawQuery = "columns=name,running,partitions,mem_alarm"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, q.String(), nil)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(user, password)
	client := http.Client{
		// No proxy, no connection kept, and the password goes nowhere else.
		Transport:     &http.Transport{DialContext: dialOwn, DisableKeepAlives: true, TLSClientConfig: local(&tls.Config{}, u.Hostname())},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		if cause := new(url.Error); errors.As(err, &cause) {
			err = cause.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	var answer []struct {
		Name       string   `json:"name"`
		Running    bool     `json:"running"`
		Partitions []string `json:"partitions"`
		Memory     *bool    `json:"mem_alarm"` // one of the statistics, for Known
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if len(answer) == 0 {
		return nil, errors.New("an empty list")
	}
	var nodes []Node
	for _, a := range answer {
		if a.Name == "" {
			return nil, errors.New("a node without a name")
		}
		nodes = append(nodes, Node{Name: a.Name, Running: a.Running, Partitions: a.Partitions, Known: a.Memory != nil && a.Partitions != nil})
	}
	return nodes, nil
}
