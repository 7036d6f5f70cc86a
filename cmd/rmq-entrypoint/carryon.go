package main

import (
	"context"
	"errors"
	"io"
)

func carryOnMain(ctx context.Context, cfg config, id string, out io.Writer) error {
	return errors.New("carry-on: being written")
}
