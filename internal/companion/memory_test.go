package companion

import (
	"os"
	"slices"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// Only what is as it is in the program's file is given back.
func TestOwnPages(t *testing.T) {
	t.Parallel()
	const maps = `00400000-00916000 r-xp 00000000 fe:00 99 /usr/local/bin/rmq-entrypoint
00916000-00e45000 r--p 00516000 fe:00 99 /usr/local/bin/rmq-entrypoint
00e45000-00ea5000 rw-p 00a45000 fe:00 99 /usr/local/bin/rmq-entrypoint
152654000000-152654400000 rw-p 00000000 00:00 0
7f00-8f00 r-xp 00000000 fe:00 98 /lib/libc.so
7fff0000-7fff1000 r-xp 00000000 00:00 0 [vdso]
`
	code, data := pages{0x400000, 0x916000}, pages{0x916000, 0xe45000}
	if own := ownPages(maps, "/usr/local/bin/rmq-entrypoint", true); !slices.Equal(own, []pages{code, data}) {
		t.Errorf("%x", own)
	}
	if own := ownPages(maps, "/usr/local/bin/rmq-entrypoint", false); !slices.Equal(own, []pages{code}) {
		t.Errorf("of a program that may be anywhere: %x", own)
	}
}

// What is given back is no longer resident, and the program goes on.
func TestGiveBack(t *testing.T) { // alone: others would have pages come back
	resident := func() int { return expect.Memory(t, os.Getpid(), "RssFile") }
	own := program()
	if len(own) == 0 {
		t.Fatal("nothing is known of this program's memory")
	}
	before := resident()
	for range 3 {
		giveBack(own)
	}
	if after := resident(); after >= before {
		t.Errorf("%d KiB of files were resident, and %d are", before, after)
	}
}

// No area of the program is larger than a piece, for the system maps no more than an area at once.
func TestCut(t *testing.T) {
	own := program()
	cut(own)
	size := func(all []pages) (bytes uintptr) {
		for _, m := range all {
			bytes += m.end - m.start
		}
		return bytes
	}
	now := program()
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil && slices.Equal(now, own) {
		return // there is nothing to cut for
	}
	if size(own) == 0 || size(now) != size(own) {
		t.Errorf("areas of %d bytes became such of %d", size(own), size(now))
	}
	for _, m := range now {
		if m.end-m.start > piece {
			t.Errorf("an area of %d KiB is left", (m.end-m.start)>>10)
		}
	}
}
