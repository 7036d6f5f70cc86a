package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Where Docker keeps its images in a file system of a program (FUSE), a boot of RabbitMQ, which
// opens some thousand files, takes half as long again: each directory on the way to each file is a
// question to that program. There the nodes of the scenarios get the same files from the host's:
// the directories of their image that hold programs, read-only.

var (
	slowStorage = sync.OnceValue(func() bool {
		driver, err := try("info", "--format", "{{.Driver}}")
		return err == nil && strings.Contains(driver, "fuse")
	})
	programsMade sync.Mutex
	programDirs  = []string{"usr", "opt"}
)

// programs returns what mounts the programs of an image from the host, where that is faster.
func programs(image string) (mounts []string, err error) {
	if !slowStorage() {
		return nil, nil
	}
	programsMade.Lock()
	defer programsMade.Unlock()
	id, err := try("image", "inspect", "-f", "{{.Id}}", image)
	if err != nil {
		return nil, err
	}
	cache := os.Getenv("RMQ_CACHE")
	if cache == "" {
		cache = "../../.cache"
	}
	dir, err := filepath.Abs(filepath.Join(cache, "programs", strings.TrimPrefix(strings.TrimSpace(id), "sha256:")[:12]))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		err = copyPrograms(image, dir)
		if err != nil {
			return nil, fmt.Errorf("copy the programs out of %s: %w", image, err)
		}
	}
	for _, name := range programDirs {
		mounts = append(mounts, "-v", filepath.Join(dir, name)+":/"+name+":ro")
	}
	return mounts, nil
}

func copyPrograms(image, dir string) error {
	unfinished := fmt.Sprintf("%s.new-%d", dir, os.Getpid())
	if err := os.MkdirAll(unfinished, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	container, err := try("create", "--label", label, image)
	if err != nil {
		return err
	}
	container = strings.TrimSpace(container)
	defer func() { _, _ = try("rm", container) }()
	for _, name := range programDirs {
		if _, err := try("cp", container+":/"+name, unfinished+"/"+name); err != nil {
			return err
		}
	}
	return os.Rename(unfinished, dir)
}
