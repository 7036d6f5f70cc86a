// Package main makes what the secure example needs to be secret: a CA with certificates, one cookie, a user, tokens for
// Consul. It writes files, and prints none of what they hold.
//
//	secure tls  DIR NODE… [-- NAME…]   CA and certificates, with further names by which clients know the nodes
//	secure make DIR NODE…              cookie, user and tokens
//	secure acl  DIR ADDRESS            gives Consul at ADDRESS the policies and tokens
//
// scripts/tls, scripts/secrets and scripts/acl call it. What is there stays; each command may be repeated.
//
// DIR is 0700. In it, files that no container gets are 0600; each service's directory holds what its container gets.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "secure:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: secure tls DIR NODE… [-- NAME…] | make DIR NODE… | acl DIR ADDRESS")

func run(ctx context.Context, args []string) error {
	if len(args) < 3 {
		return errUsage
	}
	command, dir, args := args[0], args[1], args[2:]
	nodes, names := args, []string(nil)
	if i := slices.Index(args, "--"); i >= 0 && command == "tls" {
		nodes, names = args[:i], args[i+1:]
	}
	switch command {
	case "tls", "make":
		for _, name := range append(slices.Clone(nodes), names...) {
			if !hostName.MatchString(name) {
				return fmt.Errorf("%q is neither a host name nor an address", name)
			}
		}
		if err := open(dir); err != nil {
			return err
		}
		if command == "tls" {
			return makeTLS(dir, nodes, names, time.Now())
		}
		return makeSecrets(dir, nodes)
	case "acl":
		if len(args) != 1 {
			return errUsage
		}
		client, err := consul(dir, args[0])
		if err != nil {
			return err
		}
		return giveACL(ctx, client, dir)
	}
	return errUsage
}

// hostName is what may stand in a certificate, in a path and in the name of a token.
var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$`)

// open makes dir, for nobody but its owner. One that others may enter is refused: files for containers are readable there
// to whoever has the service's user id.
func open(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of secrets: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at the directory of secrets: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("the directory of secrets (RMQ_SECRETS) is open to others (%#o): chmod 700 %s", mode, dir)
	}
	return nil
}

// write replaces a file at once, and never writes into one that is there. The directory of a container is open to the
// container's user, who is not the one that made it: dir itself keeps others out.
func write(path string, data []byte, mode fs.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { // #nosec G301 -- dir itself keeps others out
		return fmt.Errorf("make a directory of secrets: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// there reports whether a file exists, and is no older than others.
func there(path string, others ...string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(others, func(other string) bool {
		o, err := os.Stat(other)
		return err != nil || o.ModTime().After(info.ModTime())
	})
}
