package companion

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// piece is how much of the program the system may map at one access. Linux 6.18 maps all of a
	// large folio at once, which is as much of the file as was written or read at once: 2 MiB.
	// Where an area of memory is smaller it maps 64 KiB.
	piece = 256 << 10
	// spareEvery is less than it takes to make the 1 MiB of garbage at which Go collects by
	// itself. Collecting reads 1 MiB of the program that nothing else does.
	spareEvery = 30 * time.Second
)

// spare has this process hold little memory, beside a server that wants it, until end is called.
func spare() (end func()) {
	debug.SetGCPercent(20) // it allocates little: collecting often costs nothing that shows
	own := program()
	cut(own)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for pause(ctx, spareEvery); ctx.Err() == nil; pause(ctx, spareEvery) {
			giveBack(own)
		}
	})
	return func() {
		cancel()
		work.Wait()
	}
}

// cut makes areas of memory of own that are no larger than a piece, as neighbours of which one
// forgoes huge pages are two. Where the kernel has no huge pages, it has no large folios of files.
func cut(own []pages) {
	for _, m := range own {
		for at := m.start; at < m.end; at += 2 * piece {
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, at, min(piece, m.end-at), syscall.MADV_NOHUGEPAGE) // or more is resident
		}
	}
}

// giveBack returns to the system free memory, and the program's own pages. What is used of these
// comes back from the file, which the system has in its cache.
func giveBack(own []pages) {
	debug.FreeOSMemory()
	for _, m := range own {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.start, m.end-m.start, syscall.MADV_DONTNEED) // or they stay
	}
}

// program returns where this program's own pages are that are as in its file; nothing where the
// system does not tell.
func program() []pages {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	return ownPages(string(maps), exe, fixed())
}

// fixed reports whether the program was linked for its place in memory: where it was not, some
// of its read-only pages were written when it was loaded, and are not what is in the file.
func fixed() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	set := map[string]string{}
	for _, s := range info.Settings {
		set[s.Key] = s.Value
	}
	return set["-buildmode"] == "exe" && set["CGO_ENABLED"] == "0" // another linker may have pages that are read-only once they were written
}

// pages are addresses from start on, before end.
type pages struct{ start, end uintptr }

// ownPages returns where a process's maps have the code of the program exe, and with data its
// read-only data.
func ownPages(maps, exe string, data bool) (own []pages) {
	for line := range strings.Lines(maps) {
		f := strings.Fields(line)
		if len(f) != 6 || f[5] != exe || f[1] != "r-xp" && (f[1] != "r--p" || !data) {
			continue
		}
		var p pages
		if n, err := fmt.Sscanf(f[0], "%x-%x", &p.start, &p.end); n == 2 && err == nil && p.start < p.end {
			own = append(own, p)
		}
	}
	return own
}
