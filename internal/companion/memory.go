package companion

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
)

// giveBack returns to the system what only the start took: free memory, and the program's own
// pages. What is used of these comes back from the file, which the system has in its cache.
func giveBack() {
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return // it stays larger
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for _, m := range ownPages(string(maps), exe, fixed()) {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.start, m.end-m.start, syscall.MADV_DONTNEED) // or they stay
	}
}

// fixed reports whether the program was linked for its place in memory: where it was not, some
// of its read-only pages were written when it was loaded, and are not what is in the file.
func fixed() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-buildmode" {
			return s.Value == "exe"
		}
	}
	return false
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
